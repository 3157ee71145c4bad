from collections.abc import Callable
from typing import Any

import pytest
import torch
from study_cases import few_images

from petlas.errors import UserError
from petlas.petl import Design, tuned_state_dict
from petlas.search.stages.taught_run import TaughtRun
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Lora = Callable[..., Design]


def test_who_is_taught_the_labels_learns_what_one_learns_alone(bench: Callable[..., Workbench], lora: Lora) -> None:
    """Half a loss and half the same loss; with other lessons the training is another one."""
    work = few_images(bench(train={"epochs": 6, "batch_size": 16, "lr": 1e-2}), 48, 16)
    candidate, fidelity, view = Candidate(lora(b0=2)), Fidelity(6, 0), work.task.views["trainval"]
    labels = torch.nn.functional.one_hot(torch.tensor(view.targets), work.task.num_classes).float()
    alone = TrainingRun(work, candidate, fidelity, "trainval", None)
    taught, misled = (TaughtRun(work, candidate, fidelity, said) for said in (labels, labels.roll(1, dims=1)))
    for run in (alone, taught, misled):
        while not run.finished:
            run.train_epoch()
    expected = tuned_state_dict(alone.model)
    for name, value in tuned_state_dict(taught.model).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)
    assert taught.progress.loss == pytest.approx(alone.progress.loss, rel=1e-4)
    assert misled.progress.loss > alone.progress.loss + 0.1


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_images_that_are_mixed_cannot_be_taught(bench: Callable[..., Workbench], lora: Lora, name: str) -> None:
    train: dict[str, Any] = {"epochs": 2, "batch_size": 16, name: 0.4}
    with pytest.raises(UserError, match=rf"train\.{name} must be 0, got 0\.4"):
        TaughtRun(bench(train=train), Candidate(lora(b0=2)), Fidelity(2, 0), torch.zeros(1000, 10))
