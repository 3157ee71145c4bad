import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from petlas.petl import Design, apply, reset_head
from petlas.search.run_files import File, Folder
from petlas.search.training import Learner
from petlas.search.workbench import Workbench

Bench = Callable[..., Workbench]


class Fit(Learner):
    """Learns the task's targets with a linear head."""

    def accumulate(self, images: Tensor, targets: Tensor) -> Tensor:
        loss = self.objective.loss(self.forward(images), targets)
        loss.backward()
        return loss.detach()


def learner(bench: Workbench, seed: int = 0, checkpoint: File | None = None, **stamp: object) -> Fit:
    model = bench.backbone()
    torch.manual_seed(0)
    reset_head(model, bench.task.num_classes)
    apply(model, Design((), bench.shape.name)).to(bench.device)
    data = bench.batches(bench.task.views["train"], bench.config.train.batch_size)
    return Fit(model, data, bench.objective, bench.config.train, seed, checkpoint, stamp)


def head(fit: Fit) -> Tensor:
    return fit.model.get_parameter("head.weight")


def test_every_image_is_seen_once_in_an_epoch_and_the_order_changes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = learner(bench(train={"batch_size": 300}))
    picks: list[torch.Tensor] = []
    batch = run.data.batch
    monkeypatch.setattr(run.data, "batch", lambda pick: picks.append(pick) or batch(pick))
    monkeypatch.setattr(run, "accumulate", lambda images, targets: torch.zeros(()))
    run.train_epoch()
    run.train_epoch()
    assert [len(pick) for pick in picks] == [300, 300, 200] * 2
    first, second = torch.cat(picks[:3]), torch.cat(picks[3:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(800))
    assert not torch.equal(first, second)


def test_an_epochs_loss_is_the_mean_over_its_images(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = learner(bench(train={"batch_size": 300}))
    monkeypatch.setattr(run, "accumulate", lambda images, targets: torch.tensor(float(len(images))))
    run.train_epoch()
    assert run.progress == (1, pytest.approx((300 * 300 + 300 * 300 + 200 * 200) / 800))


def test_nothing_happens_after_the_last_epoch(bench: Bench) -> None:
    run = learner(bench(train={"epochs": 1, "batch_size": 800}))
    assert not run.finished
    run.train_epoch()
    assert run.finished
    before = head(run).clone()
    run.train_epoch()
    assert run.progress.epochs == 1
    assert torch.equal(head(run), before)


def test_a_loss_that_is_not_finite_ends_the_training_and_is_not_kept(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = learner(bench(train={"epochs": 3, "batch_size": 800}), checkpoint=Folder(tmp_path).file("c"))
    monkeypatch.setattr(run, "accumulate", lambda images, targets: torch.tensor(math.inf))
    run.train_epoch()
    assert (run.diverged, run.finished, run.progress.epochs) == (True, True, 1)
    assert not (tmp_path / "c").exists()


def test_an_epoch_depends_on_its_number_and_not_on_what_was_drawn_before(bench: Bench, tmp_path: Path) -> None:
    work = bench(train={"epochs": 2, "batch_size": 400})
    whole = learner(work)
    whole.train_epoch()
    whole.train_epoch()
    learner(work, checkpoint=Folder(tmp_path).file("c"), a=1).train_epoch()
    torch.rand(7)
    rest = learner(work, checkpoint=Folder(tmp_path).file("c"), a=1)
    assert rest.progress.epochs == 1
    rest.train_epoch()
    assert rest.progress == whole.progress
    assert torch.equal(head(rest), head(whole))


def test_a_checkpoint_of_another_stamp_is_not_taken_up(bench: Bench, tmp_path: Path) -> None:
    """Nothing of it is: neither weights nor moments. The next one takes its place."""
    work, file = bench(train={"epochs": 2, "batch_size": 800}), Folder(tmp_path).file("c")
    learner(work, checkpoint=file, a=1).train_epoch()
    assert learner(work, checkpoint=file, a=1).progress.epochs == 1
    other, fresh = learner(work, checkpoint=file, a=2), learner(work)
    assert other.progress.epochs == 0
    assert torch.equal(head(other), head(fresh))
    for run in (other, fresh):
        run.train_epoch()
    assert other.progress == fresh.progress
    assert torch.equal(head(other), head(fresh))
    assert [learner(work, checkpoint=file, a=a).progress.epochs for a in (1, 2)] == [0, 1]


def test_gradients_are_clipped_only_where_asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda parameters, norm: norms.append(norm))
    for clip in (None, 0.5):
        learner(bench(train={"batch_size": 800, "clip_grad": clip})).train_epoch()
    assert norms == [0.5]


def test_the_optimiser_holds_exactly_what_is_trainable(bench: Bench) -> None:
    run = learner(bench())
    held = {id(p) for group in run.optimiser.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.model.parameters() if p.requires_grad}


@pytest.mark.parametrize("wanted", [True, False])
def test_steps_are_deterministic_where_asked_and_the_switch_is_left_as_it_was(
    bench: Bench, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = learner(bench(train={"batch_size": 800, "deterministic": wanted}))
    seen: list[bool] = []

    def spy(images: Tensor, targets: Tensor) -> Tensor:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return torch.zeros(())

    monkeypatch.setattr(run, "accumulate", spy)
    run.train_epoch()
    assert seen == [wanted]
    assert not torch.are_deterministic_algorithms_enabled()


def test_bf16_changes_logits_by_rounding_only_and_is_over_after_the_forward_pass(bench: Bench) -> None:
    """Against float32; and attention, whose implementation is another one then, is what it was afterwards."""
    fused = torch.backends.cuda.flash_sdp_enabled()
    logits = []
    for amp in ("off", "bf16"):
        run = learner(bench(train={"amp": amp}))
        images, _ = run.data.batch(torch.arange(8))
        logits.append(run.forward(images))
    assert logits[0].dtype == logits[1].dtype == torch.float32
    torch.testing.assert_close(logits[1], logits[0], rtol=0.05, atol=0.05)
    assert not torch.equal(logits[0], logits[1])
    assert torch.backends.cuda.flash_sdp_enabled() == fused and not torch.is_autocast_enabled("cpu")
