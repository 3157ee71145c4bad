from __future__ import annotations

import copy

import torch

from petlas.petl import MINI, apply, everywhere, load_backbone
from petlas.search.config import TrainConfig
from petlas.search.objectives import get_objective
from petlas.search.training.repeated import RepeatedStep


def test_it_is_a_step_of_adamw_on_the_loss_of_its_batch() -> None:
    model = load_backbone(MINI, num_classes=5)
    apply(model, everywhere("bitfit", model)).train()
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    other = copy.deepcopy(model)
    train = TrainConfig(lr=0.01, weight_decay=0.1, amp="off")
    step = RepeatedStep(model, images, labels, get_objective("single_label"), train, None)
    expected = torch.nn.functional.cross_entropy(other(images), labels)
    torch.testing.assert_close(step.loss(), expected)
    step()
    trained = [p for p in other.parameters() if p.requires_grad]
    expected.backward()
    torch.optim.AdamW(trained, lr=0.01, weight_decay=0.0).step()
    head = other.get_parameter("head.weight")
    for mine, theirs in zip((p for p in model.parameters() if p.requires_grad), trained, strict=True):
        if theirs is not head:  # which alone is decayed
            torch.testing.assert_close(mine, theirs)
