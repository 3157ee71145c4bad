import os
from collections.abc import Callable
from pathlib import Path

import pytest

from petlas.search import api
from petlas.search.config import ConfigError, RunConfig
from petlas.search.run_folder import RunError
from petlas.search.runners import TRACKERS, check_trackers, choose_runner
from petlas.search.runners.ray.trackers import MLflow, TensorBoard, WeightsAndBiases

Make = Callable[..., RunConfig]
EXTRAS = Path(__file__).parents[4] / "setup.cfg"


def test_each_has_an_extra_of_its_name() -> None:
    import configparser

    read = configparser.ConfigParser()
    read.read(EXTRAS)
    assert TRACKERS.keys() <= dict(read["options.extras_require"]).keys()


@pytest.mark.parametrize("tracker", [TensorBoard, WeightsAndBiases, MLflow])
def test_without_its_package_a_search_is_refused_before_anything_is_made(
    tracker: type, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = (name for name, place in TRACKERS.items() if place.endswith(f":{tracker.__name__}"))
    monkeypatch.setattr(tracker, "package", "petlas_no_such_package")
    config = make(search={"trackers": [name]})
    with pytest.raises(RunError, match=rf"{name}, and the package petlas_no_such_.*pip install 'petlas\[{name}\]'"):
        api.search([config])
    assert not config.folder.exists()


def test_what_needs_ray_takes_it_and_is_refused_elsewhere(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightsAndBiases, "package", "json")
    one = {"runner": "auto", "concurrent": 1}
    assert choose_runner(make(resources=one)) == "inline"
    free = make(resources=one, search={"trackers": ["wandb"]})
    assert choose_runner(free) == "ray"
    check_trackers(free)
    for bound in ({"runner": "inline"}, {"runner": "auto", "pack": 2}):
        with pytest.raises(RunError, match=r"wandb, which Ray .* set resources\.runner=ray, or leave wandb out"):
            check_trackers(make(resources=bound, search={"trackers": ["wandb"]}))


def test_an_unknown_one_is_refused_with_the_nearest(make: Make) -> None:
    with pytest.raises(ConfigError, match="did you mean tensorboard"):
        make(search={"trackers": ["tensorbord"]})


def test_nothing_is_sent_anywhere_unless_the_environment_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    callback = WeightsAndBiases("run", tmp_path, tmp_path).callback()
    assert callback.kwargs["mode"] == "offline"
    assert "WANDB_MODE" not in os.environ
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert WeightsAndBiases("run", tmp_path, tmp_path).callback().kwargs["mode"] == "disabled"


def test_a_server_of_mlflow_is_told_where_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert MLflow("run", tmp_path, tmp_path / "runs").look.endswith(f"sqlite:///{tmp_path}/runs/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert MLflow("run", tmp_path, tmp_path).look == "mlflow ui --backend-store-uri http://127.0.0.1:5000"
    assert MLflow("run", tmp_path, tmp_path).named({"lora@3": 8, "lr": 0.1}) == {"lora/3": 8, "lr": 0.1}
