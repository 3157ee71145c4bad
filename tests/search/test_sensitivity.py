from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from petlas.petl.backbone import input_config, load_backbone, reset_head
from petlas.petl.design import Design
from petlas.search import sensitivity
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.record import StudyRecord, design_of
from petlas.search.run_folder import RunError, opened
from petlas.search.sensitivity import FILE, read_report, report, report_of
from petlas.search.sizing import OPERATIONS
from petlas.search.training import load_split, open_run_task, pick_device
from petlas.spaces import SpaceError

Make = Callable[..., RunConfig]
SMALL = {"batches": 2, "batch_size": 4, "rule": "proportional", "budgets": [2_000, 4_000]}
SPACE = {"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 2, 4]}}}


@pytest.fixture
def small(make: Make) -> Make:
    """A configuration whose sensitivity takes two small batches."""
    return lambda **groups: make(**{"space": SPACE, "sensitivity": SMALL} | groups)


def trials(config: RunConfig) -> list[Any]:
    return StudyRecord.in_folder(config.folder, config.storage).trials()


def test_sites_are_the_sums_of_squared_gradients_of_the_first_training_images(small: Make) -> None:
    config = small()
    model = load_backbone(config.backbone.name, None, img_size=32)
    torch.manual_seed(config.seed)
    reset_head(model, 10)
    data = load_split(config, open_run_task(config), "train", input_config(model), pick_device())
    sums = {path: torch.zeros_like(p) for path, p in model.named_parameters()}
    for start in (0, 4):
        model.zero_grad()
        images, labels = data.batch(slice(start, start + 4))
        F.cross_entropy(model.eval()(images), labels).backward()
        for path, parameter in model.named_parameters():
            sums[path] += parameter.grad**2
    for block, site in enumerate(report(config).sites):
        at = {
            path.removeprefix(f"blocks.{block}."): s for path, s in sums.items() if path.startswith(f"blocks.{block}.")
        }
        qkv = at["attn.qkv.weight"].view(3, -1).sum(1) + at["attn.qkv.bias"].view(3, -1).sum(1)
        whole = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "norm1": "norm1", "norm2": "norm2"}
        expected = dict(zip("qkv", qkv, strict=True))
        expected |= {name: at[f"{path}.weight"].sum() + at[f"{path}.bias"].sum() for name, path in whole.items()}
        assert site == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-4)
        assert list(site) == list(OPERATIONS)


def test_a_warm_head_is_better_than_a_random_one(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []

    def watch(model: Any, batches: Any, *_: Any) -> Any:
        losses.append(sum(F.cross_entropy(model(x), y).item() for x, y in batches))
        raise RunError("enough")

    monkeypatch.setattr(sensitivity, "tensor_sensitivities", watch)
    for head in ("random", "warm"):
        with pytest.raises(RunError):
            report(small(sensitivity=SMALL | {"head": head}))
    assert losses[1] < 0.5 * losses[0]


def test_a_loss_that_is_not_finite_is_refused(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    load = sensitivity.fresh_backbone

    def broken(*args: Any, **named: Any) -> Any:
        model = load(*args, **named)
        torch.nn.init.constant_(model.blocks[0].mlp.fc1.bias, torch.nan)
        return model

    monkeypatch.setattr(sensitivity, "fresh_backbone", broken)
    with pytest.raises(RunError, match="finite"):
        report(small())


def test_the_report_is_made_once_and_read_again(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = report_of(small())
    monkeypatch.setattr(sensitivity, "measure", None)
    assert report_of(small()) == made == read_report(small().folder / FILE)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"task": 1}'])
def test_a_damaged_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RunError, match="remove it"):
        read_report(tmp_path / FILE)


def test_budgets_are_those_asked_for_or_the_runs_own_or_seven(small: Make) -> None:
    assert sensitivity.budgets_of(small()) == [2_000, 4_000]
    assert sensitivity.budgets_of(small(budget={"params": 3_000})) == [2_000]
    assert sensitivity.budgets_of(small(budget={"params": 3_000}, sensitivity={})) == [3_000]
    assert len(sensitivity.budgets_of(small(sensitivity={}))) == 7


def test_the_strategy_trains_one_design_for_each_budget_and_the_baselines(small: Make, training: Any) -> None:
    config = small(strategy="sensitivity", budget={"params": 4_000}, search={"baselines": True})
    search(config)
    mine = [t for t in trials(config) if t.user_attrs["stage"] == "sensitivity"]
    assert {t.user_attrs["stage"] for t in trials(config)} == {"baseline", "sensitivity"}
    designs = [Design.from_dict(each.design) for each in report_of(config).designs]
    assert sorted(t.user_attrs["key"] for t in mine) == sorted(design.key for design in designs)
    assert all(t.values and t.values[1] <= 4_000 for t in mine)
    before = trials(config)
    search(config)
    assert trials(config) == before


def test_a_search_begins_with_designs_in_proportion_to_the_sensitivity(small: Make, training: Any) -> None:
    config = small(search={"seed_designs": "sensitivity", "trials": 5, "sampler": "tpe"}, budget={"params": 4_000})
    search(config)
    found = trials(config)
    assert len(found) == 5
    params = [t.user_attrs["params"] for t in found[:3]]
    for limit, spent in zip((4_000, 2_000, 1_000), params, strict=True):
        assert limit - 512 < spent <= limit  # LoRA costs 512 a rank here
    assert all(t.user_attrs["stage"] == "search" and t.params for t in found)


def test_a_pruned_space_has_none_of_the_least_sensitive_places(small: Make, training: Any) -> None:
    config = small(space=SPACE | {"prune": 0.5}, search={"trials": 12})
    search(config)
    used = {p.block for t in trials(config) for p in design_of(t).placements}
    assert len(used) == 3
    sites = report_of(config).sites
    totals = {block: sum(site[name] for name in ("q", "v")) for block, site in enumerate(sites)}
    assert used == set(sorted(totals, key=lambda block: totals[block])[3:])


def test_sizes_by_sensitivity_lie_within_the_pruned_space(small: Make, training: Any) -> None:
    config = small(strategy="sensitivity", space=SPACE | {"prune": 0.5})
    search(config)
    designs = [Design.from_dict(each.design) for each in report_of(config).designs]
    assert len({p.block for design in designs for p in design.placements}) <= 3
    assert {t.user_attrs["key"] for t in trials(config)} == {design.key for design in designs}


def test_other_settings_are_measured_anew(small: Make) -> None:
    first = report_of(small())
    other = report_of(small(sensitivity=SMALL | {"criterion": "taylor"}))
    assert (first.criterion, other.criterion) == ("spt", "taylor")
    assert first.sites != other.sites


def test_a_folder_that_was_only_scored_takes_any_settings(small: Make, training: Any) -> None:
    with opened(small()):
        report_of(small())
    search(small(search={"trials": 2}, train={"epochs": 3}))
    with pytest.raises(RunError, match="epochs"):
        search(small(search={"trials": 2}))


def test_budgets_that_nobody_asked_for_and_nothing_fits_are_left_out(small: Make) -> None:
    large = {"methods": {"lora": {"blocks": "all", "sizes": [32, 64]}}}
    config = small(space=large, sensitivity={"batches": 1, "batch_size": 4, "rule": "proportional"})
    assert [each.budget for each in report(config).designs] == [100_000, 200_000, 400_000, 600_000, 800_000, 1_000_000]
    with pytest.raises(SpaceError, match="at least"):
        report(small(space=large))


def test_plain_data_of_a_report_says_all(small: Make) -> None:
    data = asdict(report_of(small()))
    assert [d["budget"] for d in data["designs"]] == [2_000, 4_000]
    assert all(0 < d["params"] <= d["budget"] for d in data["designs"])
    assert data["seconds"].keys() == {"gradients", "after"}
