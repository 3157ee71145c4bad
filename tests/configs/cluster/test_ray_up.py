"""The clusters that `ray up` starts, held against Ray's own schema and what petlas needs; nothing is started."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

CONFIGS = Path(__file__).parents[3] / "configs/cluster"
FILES = ("aws.yaml", "onprem.yaml")
PLACES = {"REGISTRY", "AMI_ID", "REGION", "HEAD_ADDRESS", "WORKER_ADDRESS_1", "WORKER_ADDRESS_2", "USER"}


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest) -> Path:
    return CONFIGS / request.param


@pytest.fixture
def given(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(path.read_text())
    return read


def filled(given: dict[str, Any]) -> dict[str, Any]:
    """With Ray's defaults for the provider, as `ray up` fills it."""
    from ray.autoscaler import sdk

    if given["provider"]["type"] == "local":
        return dict(sdk.bootstrap_config(given, no_config_cache=True))
    return dict(sdk.fillout_defaults(given))


def started(config: dict[str, Any]) -> list[str]:
    """The commands that start Ray on the head and on the others."""
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]


def test_it_is_of_rays_schema_as_given_and_with_rays_defaults(given: dict[str, Any]) -> None:
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(given, schema)
    config = filled(given)
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert sum(each.get("min_workers", 0) for each in config["available_node_types"].values()) <= config["max_workers"]


def test_the_schema_refuses_a_key_that_ray_does_not_know(given: dict[str, Any]) -> None:
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError, match="setup_command'"):
        jsonschema.validate(given | {"setup_command": []}, schema)


def test_ray_asks_for_a_token_that_every_node_gets_and_shows_its_dashboard_to_the_head_alone(
    given: dict[str, Any],
) -> None:
    head, worker = started(filled(given))
    assert given["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in (head, worker))
    assert "--dashboard-host=127.0.0.1" in head
    assert "--head --port=6379" in head
    assert "--address=$RAY_HEAD_IP:6379" in worker


def test_every_command_is_sound_for_a_shell(given: dict[str, Any]) -> None:
    config = filled(given)
    commands = [command for key in config if key.endswith("commands") for command in config[key]]
    assert commands
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_options_of_ray_are_options_that_it_has(given: dict[str, Any]) -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    used = {option for command in started(filled(given)) for option in re.findall(r"--[a-z-]+", command)}
    assert used <= known


def test_what_is_to_be_replaced_stands_in_capital_letters_and_is_told_at_the_top(path: Path) -> None:
    head, _, body = path.read_text().partition("\ncluster_name:")
    found = set(re.findall(r"(?<![\w$])[A-Z]{3,}[A-Z_0-9]*\b(?!=)", re.sub(r"#.*", "", body))) - {"CPU", "GPU"}
    assert found <= PLACES
    assert "Replace what is in capital letters" in head
