from pathlib import Path

import pytest
import torch
from torch import nn

from petlas.search.run_files import File, Folder
from petlas.search.training.checkpoint import Progress, load_checkpoint, save_checkpoint

STAMP = {"what": "test", "seed": 0}


def at(path: Path) -> File:
    return Folder(path.parent).file(path.name)


def trained(steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimiser = torch.optim.AdamW(model[1].parameters(), lr=0.1)
    model[0].requires_grad_(False)
    train(model, optimiser, steps)
    return model, optimiser


def train(model: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimiser.zero_grad()
        model(torch.full((2, 3), float(step + 1))).pow(2).sum().backward()
        optimiser.step()


def test_training_that_goes_on_from_a_file_ends_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    model, optimiser = trained()
    save_checkpoint(at(tmp_path / "deep" / "c.safetensors"), model, optimiser, Progress(3, 0.5), STAMP)
    other, fresh = trained(0)
    assert load_checkpoint(at(tmp_path / "deep" / "c.safetensors"), other, fresh, STAMP) == Progress(3, 0.5)
    train(model, optimiser, 2)
    train(other, fresh, 2)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c.safetensors"]


def test_weights_alone_can_be_read(tmp_path: Path) -> None:
    model, optimiser = trained()
    save_checkpoint(at(tmp_path / "c"), model, optimiser, Progress(3, 0.5), STAMP)
    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert load_checkpoint(at(tmp_path / "c"), other, None, STAMP) is not None
    assert torch.equal(other[1].weight, model[1].weight)


@pytest.mark.parametrize("content", [None, b"", b"torn", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_no_file_or_a_broken_one_is_no_progress(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "c"
    if content is not None:
        path.write_bytes(content)
    model, optimiser = trained()
    before = model[1].weight.clone()
    assert load_checkpoint(at(path), model, optimiser, STAMP) is None
    assert torch.equal(model[1].weight, before)


def test_a_file_of_another_training_is_not_taken_up(tmp_path: Path) -> None:
    model, optimiser = trained()
    save_checkpoint(at(tmp_path / "c"), model, optimiser, Progress(3, 0.5), STAMP)
    assert load_checkpoint(at(tmp_path / "c"), model, optimiser, STAMP | {"seed": 1}) is None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimiser = trained()
    path = tmp_path / "c"
    save_checkpoint(at(path), model, optimiser, Progress(1, 0.5), STAMP)

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("petlas.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(at(path), model, optimiser, Progress(2, 0.4), STAMP)
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]
    assert load_checkpoint(at(path), model, None, STAMP) == Progress(1, 0.5)
