import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from petlas.petl import Design, Placement, load_adapter, tuned_state_dict
from petlas.search.config import RunConfig
from petlas.search.retraining import retrain
from petlas.search.run_folder import RunError
from petlas.search.stages.retrain import RETRAINED, TEST_READS, adapter_name
from petlas.search.training import evaluate
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Make = Callable[..., RunConfig]
OPTIONS: dict[str, Any] = {"train": {"epochs": 1, "lr": 5e-3, "batch_size": 128}}


def candidate(method: str, config: RunConfig) -> Candidate:
    return Candidate(Design.of([Placement(method, 1, 1)], config.backbone.name))


def test_seeds_are_tested_together_beside_the_single_ones_when_that_is_asked_for(make: Make) -> None:
    config = make(**OPTIONS)
    lora, folder = candidate("lora", config), config.folder
    plain = retrain(config, lora, seeds=2)
    assert plain.together == {}
    found = retrain(config, lora, seeds=2, together=True)
    assert replace(found, together={}) == plain
    bench = Workbench(config)
    one, other = (load_adapter(folder / adapter_name(lora, seed)) for seed in (0, 1))
    batches = list(bench.batches(bench.task.views["test"]))
    with torch.inference_mode():
        outputs = torch.cat([one(images) + other(images) for images, _ in batches])
        for name, value in tuned_state_dict(one).items():
            value.copy_((value + tuned_state_dict(other)[name]) / 2)
    targets = torch.cat([targets for _, targets in batches])
    right = float((outputs.argmax(1) == targets).double().mean())
    assert found.together["ensemble"] == pytest.approx(right)
    assert found.together["average"] == pytest.approx(
        evaluate(one, bench.batches(bench.task.views["test"]), bench.objective)
    )
    assert len({*found.together.values(), *plain.tests}) == 4
    reads = json.loads((folder / TEST_READS).read_text())
    assert [(read["name"], read["seed"]) for read in reads] == [("found", 0), ("found", 1), ("2 seeds together", None)]
    assert json.loads((folder / "best" / "metrics.json").read_text())["together"] == found.together
    assert "was read once" in (folder / "best" / "card.md").read_text()
    with pytest.raises(RunError, match="at least 2 seeds, got 1"):
        retrain(config, lora, seeds=1, together=True)


@pytest.mark.usefixtures("some_digits")
def test_weights_that_are_not_the_same_ones_have_no_average(make: Make) -> None:
    config = make(**OPTIONS)
    assert set(retrain(config, candidate("sparse", config), seeds=2, together=True).together) == {"ensemble"}


@pytest.mark.usefixtures("some_digits")
def test_a_model_that_the_seeds_teach_is_told_beside_them_and_kept(make: Make) -> None:
    config = make(**OPTIONS)
    lora = candidate("lora", config)
    found = retrain(config, lora, seeds=2, distil=True)
    assert set(found.together) == {"distilled"}
    file = config.folder / RETRAINED / f"{lora.key}-distilled.safetensors"
    bench = Workbench(config)
    test = bench.batches(bench.task.views["test"])
    assert evaluate(load_adapter(file), test, bench.objective) == pytest.approx(found.together["distilled"])
    assert found.together["distilled"] not in found.tests
    reads = json.loads((config.folder / TEST_READS).read_text())
    assert [read["name"] for read in reads] == ["found", "found", "taught by 2 seeds"]
    assert (config.folder / "best" / "adapter.safetensors").read_bytes() != file.read_bytes()
    with pytest.raises(RunError, match="--distil needs at least 2 seeds, got 1"):
        retrain(config, lora, seeds=1, distil=True)
