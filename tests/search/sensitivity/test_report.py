import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from petlas.petl import apply, count_params, count_tuned, load_backbone
from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.run_folder import RunError, opened
from petlas.search.sensitivity import (
    FILE,
    SensitivityReport,
    budgets_of,
    keep_report,
    kept_report,
    make_report,
    measuring,
    read_report,
    with_pruned_space,
)
from petlas.search.study import StudyRecord, design_of
from petlas.search.workbench import Workbench
from petlas.spaces import SpaceError

Make = Callable[..., RunConfig]
Bench = Callable[..., Workbench]
SMALL = {"batches": 2, "batch_size": 4, "rule": "proportional", "budgets": [2_000, 4_000]}
SPACE = {"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 2, 4]}}}


@pytest.fixture
def small(make: Make) -> Make:
    """A configuration whose sensitivity takes two small batches."""
    return lambda **groups: make(**{"space": SPACE, "sensitivity": SMALL} | groups)


@pytest.fixture
def bench(small: Make) -> Bench:
    """The workbench of such a configuration."""
    return lambda **groups: Workbench(small(**groups))


def report_of(bench: Workbench) -> SensitivityReport:
    """The report in the run folder, made if there is none of these settings."""
    return kept_report(bench) or keep_report(bench)


def trials(config: RunConfig) -> list[Any]:
    return StudyRecord.read(config.folder, config.storage).trials()


def test_a_loss_that_is_not_finite_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Workbench.backbone

    def broken(it: Workbench) -> torch.nn.Module:
        model = load(it)
        torch.nn.init.constant_(model.get_parameter("blocks.0.mlp.fc1.bias"), torch.nan)
        return model

    monkeypatch.setattr(Workbench, "backbone", broken)
    with pytest.raises(RunError, match="finite"):
        make_report(bench())


def test_the_report_is_made_once_and_read_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made = report_of(bench())
    monkeypatch.setattr(measuring, "measure", None)
    assert report_of(bench()) == made == read_report(bench().config.folder / FILE)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"task": 1}'])
def test_a_damaged_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RunError, match="remove it"):
        read_report(tmp_path / FILE)


def test_budgets_are_those_asked_for_or_the_runs_own_or_seven(bench: Bench) -> None:
    assert budgets_of(bench()) == [2_000, 4_000]
    assert budgets_of(bench(budget={"params": 3_000})) == [2_000]
    assert budgets_of(bench(budget={"params": 3_000}, sensitivity={})) == [3_000]
    assert len(budgets_of(bench(sensitivity={}))) == 7


def test_the_strategy_trains_one_design_for_each_budget_and_the_baselines(small: Make, training: Any) -> None:
    config = small(strategy="sensitivity", budget={"params": 4_000}, search={"baselines": True})
    search(config)
    mine = [t for t in trials(config) if t.user_attrs["stage"] == "sensitivity"]
    assert {t.user_attrs["stage"] for t in trials(config)} == {"baseline", "sensitivity"}
    designs = [Design.from_dict(each.design) for each in report_of(Workbench(config)).designs]
    assert sorted(t.user_attrs["key"] for t in mine) == sorted(design.key for design in designs)
    assert all(t.values and t.user_attrs["params"] <= 4_000 for t in mine)
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
    sites = report_of(Workbench(config)).sites
    totals = {block: sum(site[name] for name in ("q", "v")) for block, site in enumerate(sites)}
    assert used == set(sorted(totals, key=lambda block: totals[block])[3:])


def test_sizes_by_sensitivity_lie_within_the_pruned_space(small: Make, training: Any) -> None:
    config = small(strategy="sensitivity", space=SPACE | {"prune": 0.5})
    search(config)
    designs = [Design.from_dict(each.design) for each in report_of(Workbench(config)).designs]
    assert len({p.block for design in designs for p in design.placements}) <= 3
    assert {t.user_attrs["key"] for t in trials(config)} == {design.key for design in designs}


def test_a_workbench_stays_itself_where_nothing_is_pruned(bench: Bench) -> None:
    sites = [{"q": float(block), "v": 0.0} for block in range(6)]
    whole, part = bench(), bench(space=SPACE | {"prune": 0.5})
    assert with_pruned_space(whole, sites) is whole
    assert [d.block for d in with_pruned_space(part, sites).space.dimensions] == [3, 4, 5]
    assert len(part.space.dimensions) == 6


def test_other_settings_are_measured_anew(bench: Bench) -> None:
    first = report_of(bench())
    other = report_of(bench(sensitivity=SMALL | {"criterion": "taylor"}))
    assert (first.criterion, other.criterion) == ("spt", "taylor")
    assert first.sites != other.sites


def draw_images(folder: Path, seed: int) -> None:
    """A task of two classes of coloured noise, in the same files whatever the seed."""
    rng = np.random.default_rng(seed)
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(4):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.bmp")


def test_other_images_at_the_same_place_are_measured_anew(bench: Bench, tmp_path: Path) -> None:
    draw_images(tmp_path / "data", 0)
    first = report_of(bench(task=str(tmp_path / "data")))
    draw_images(tmp_path / "data", 1)
    other = report_of(bench(task=str(tmp_path / "data")))
    assert first.settings["images"] != other.settings["images"]
    assert first.sites != other.sites
    assert read_report(bench().config.folder / FILE) == other
    draw_images(tmp_path / "data", 0)
    assert report_of(bench(task=str(tmp_path / "data"))).sites == first.sites


def test_other_weights_at_the_same_place_are_measured_anew(bench: Bench, tmp_path: Path) -> None:
    file, model = tmp_path / "weights.safetensors", load_backbone("vit_mini_patch16_64", img_size=32)
    backbone = {"name": "vit_mini_patch16_64", "img_size": 32, "checkpoint": str(file)}
    save_file(model.state_dict(), file)
    first = report_of(bench(backbone=backbone))
    with torch.no_grad():
        model.get_parameter("blocks.0.mlp.fc1.weight").mul_(1.5)
    save_file(model.state_dict(), file)
    other = report_of(bench(backbone=backbone))
    assert first.settings["weights"] != other.settings["weights"]
    assert first.sites != other.sites


def test_how_designs_are_trained_does_not_matter_to_a_report(bench: Bench) -> None:
    assert report_of(bench(train={"epochs": 7, "lr": 0.1})) == report_of(bench(train={"epochs": 3}))


def test_a_folder_that_was_only_scored_takes_any_settings(small: Make, training: Any) -> None:
    with opened(small()):
        report_of(Workbench(small()))
    search(small(search={"trials": 2}, train={"epochs": 3}))
    with pytest.raises(RunError, match="epochs"):
        search(small(search={"trials": 2}))


def test_budgets_that_nobody_asked_for_and_nothing_fits_are_left_out(bench: Bench) -> None:
    large = {"methods": {"lora": {"blocks": "all", "sizes": [32, 64]}}}
    it = bench(space=large, sensitivity={"batches": 1, "batch_size": 4, "rule": "proportional"})
    assert [each.budget for each in make_report(it).designs] == [100_000, 200_000, 400_000, 600_000, 800_000, 1_000_000]
    with pytest.raises(SpaceError, match="at least"):
        make_report(bench(space=large))


def test_plain_data_of_a_report_says_all(bench: Bench) -> None:
    data = asdict(report_of(bench()))
    assert [d["budget"] for d in data["designs"]] == [2_000, 4_000]
    assert all(0 < d["params"] <= d["budget"] for d in data["designs"])
    assert data["seconds"].keys() == {"gradients", "after"}


@pytest.mark.parametrize(
    ("name", "stages", "operations"),
    [
        ("swin_mini_patch4_64", [1, 1, 4], {"norm1", "q", "k", "v", "proj", "norm2", "fc1", "fc2"}),
        ("convnext_mini_64", [1, 1, 3, 1], {"conv", "norm2", "fc1", "fc2"}),
    ],
)
def test_a_backbone_with_stages_is_measured_block_by_block_and_given_a_budget(
    bench: Bench, name: str, stages: list[int], operations: set[str]
) -> None:
    methods = {"lora": {"blocks": "all", "sizes": [0, "1/32", "1/16"], "options": {"targets": "fc1,fc2"}}}
    it = bench(backbone={"name": name, "img_size": 32}, space={"methods": methods})
    made = report_of(it)
    assert made.stages == stages and len(made.sites) == sum(stages)
    assert all(set(site) == operations and min(site.values()) > 0 for site in made.sites)
    for given in made.designs:
        assert given.params <= given.budget and count_params(Design.from_dict(given.design), it.shape) == given.params
    by_spt = report_of(bench(backbone={"name": name, "img_size": 32}, sensitivity=SMALL | {"rule": "spt"}))
    assert [given.params for given in by_spt.designs] == SMALL["budgets"]
    model = apply(it.backbone(), Design.from_dict(by_spt.designs[-1].design))
    model(torch.randn(2, 3, 32, 32)).square().mean().backward()
    assert count_tuned(model) == SMALL["budgets"][-1] and all(p.grad is not None for p in model.petl.parameters())


def test_a_report_is_read_without_torch() -> None:
    code = "import sys, petlas.search.sensitivity; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
