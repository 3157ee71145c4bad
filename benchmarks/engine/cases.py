"""The steps that are compared: one frozen backbone in many models, each with something else that is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl import (
    METHODS,
    Design,
    Placement,
    Supernet,
    apply,
    count_params,
    family_of,
    get_method,
    load_backbone,
    merge,
    shape_of,
)
from petlas.search.config import TrainConfig, find_config
from petlas.search.reports.listing import list_methods
from petlas.search.training.batches import logits_of
from petlas.search.training.graphs import Graphs, graphs_for
from petlas.search.training.numerics import autocast_dtype, precision
from petlas.spaces import Budget, load_space

NOAH_CIFAR100 = {
    "vpt": (10, 5, 10, 1, 5, 1, 10, 1, 10, 5, 1, 10),
    "lora": (10, 1, 5, 5, 1, 10, 1, 1, 1, 10, 1, 1),
    "adapter": (5, 10, 10, 10, 5, 1, 1, 1, 10, 10, 10, 1),
}
"""The subnet that NOAH's paper found for CIFAR-100."""
KEY = ("lora", "adapter", "adapter_plus", "vpt", "ssf", "convpass", "bitfit")
"""The methods that large backbones are timed with in a quick run."""


@dataclass(frozen=True)
class Setting:
    """A backbone with random weights and a batch of noise.

    Args:
        backbone: timm's name.
        size: Of the images, in pixels.
        batch: Images.
        device: Where is computed.
        autocast: In which type; None for float32.
    """

    backbone: str
    size: int
    batch: int
    device: torch.device
    autocast: torch.dtype | None

    @property
    def title(self) -> str:
        """What the table calls it."""
        return f"{self.backbone}, {self.size} px, batch {self.batch}"

    def load(self) -> nn.Module:
        """The backbone."""
        model = load_backbone(self.backbone, pretrained=False, num_classes=100, img_size=self.size)
        return model.to(self.device)

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) and labels (B,)."""
        images = torch.randn(self.batch, 3, self.size, self.size, device=self.device)
        return images, torch.randint(100, (self.batch,), device=self.device)

    def tokens(self, model: nn.Module) -> Tensor:
        """Nothing, of the shape of what a block hands on (B, N, D), in the type of products."""
        family = family_of(model)
        rows, columns = family.grid(model, family.image_size(model))
        count = family.prefix_tokens(model) + rows * columns
        return torch.empty(self.batch, count, family.width(model), dtype=self.autocast or torch.float32)


def setting(backbone: str, size: int, batch: int, device: torch.device, amp: str) -> Setting:
    """A setting in the precision that a run of petlas has on that device."""
    train = TrainConfig.model_validate({"amp": amp})
    return Setting(backbone, size, batch, device, autocast_dtype(train, device))


class Step:
    """Forward pass, backward pass and AdamW's step of one model.

    Args:
        model: With what is trained set to want gradients.
        where: The setting.
        inputs: Images and labels.
        before: Is called in front of each step.
        run: The forward pass, of the model and images; by default as petlas runs it.
    """

    def __init__(
        self,
        model: nn.Module,
        where: Setting,
        inputs: tuple[Tensor, Tensor],
        before: Callable[[], object] | None = None,
        run: Callable[[nn.Module, Tensor], Tensor] = logits_of,
    ) -> None:
        self.model, self._where, self._inputs, self._before, self._run = model.train(), where, inputs, before, run
        self.graphs: Graphs | None = None
        self._all = torch.arange(len(inputs[0]), device=where.device)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(self.trained, lr=1e-5, foreach=True)  # as petlas's own

    def forward(self) -> Tensor:
        """The loss."""
        return self._loss(*self._inputs)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with precision(self._where.device, self._where.autocast):
            logits = self._run(self.model, images)
        return F.cross_entropy(logits.float(), labels)

    def passes(self) -> None:
        """Forward and backward."""
        self._optimiser.zero_grad()
        if self.graphs is None:
            self._gradients(*self._inputs)
        else:
            self.graphs(self._picked, self._all)

    def _gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = self._loss(images, labels)
        loss.backward()
        return loss.detach()

    def _picked(self, pick: Tensor) -> Tensor:
        self._optimiser.zero_grad()
        images, labels = self._inputs
        return self._gradients(images[pick], labels[pick])

    def by_graphs(self) -> Step:
        """The same, its passes launched at once; they have been made."""
        self.graphs = graphs_for([self.model], TrainConfig(), self._where.device)
        for _ in range(2):
            self()
        return self

    def __call__(self) -> None:
        """The whole step."""
        if self._before is not None:
            self._before()
        self.passes()
        self._optimiser.step()

    def storages(self) -> set[int]:
        """Addresses of the storages of all parameters, buffers and inputs."""
        tensors = [*self.model.parameters(), *self.model.buffers(), *self._inputs]
        return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def shared(model: nn.Module) -> nn.Module:
    """A copy of a frozen model that holds the same parameters, not copies, but for the head."""
    head = {id(p) for p in family_of(model).head(model).parameters()}
    memo: dict[int, object] = {id(p): p for p in model.parameters() if id(p) not in head}
    return copy.deepcopy(model, memo)


def bare(model: nn.Module) -> nn.Module:
    """Everything frozen but a vector added to what enters the first block, and the head: gradients cross all blocks."""
    model = shared(model)
    family = family_of(model)
    family.head(model).requires_grad_(True)
    vector = nn.Parameter(torch.zeros(family.width(model), device=next(model.parameters()).device))
    model.register_parameter("vector", vector)
    family.site(model, "block.in", 0).change(lambda tokens: tokens + vector.to(tokens.dtype))
    return model


def peft_lora(model: nn.Module) -> nn.Module:
    """`peft`'s LoRA of rank 8 on the fused q, k and v."""
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(shared(model), LoraConfig(r=8, lora_alpha=8, target_modules=["qkv"]))
    family_of(model).head(tuned.base_model.model).requires_grad_(True)
    return tuned


def with_method(name: str, model: nn.Module) -> nn.Module:
    """A method at its default size wherever its usual design has it."""
    method = get_method(name)
    return apply(shared(model), Design.of(method.baseline(shape_of(model), method.default_size)))


def noah_subnet(model: nn.Module) -> nn.Module:
    """The subnet of NOAH's paper for CIFAR-100."""
    sizes = [(m, b, s) for m, row in NOAH_CIFAR100.items() for b, s in enumerate(row)]
    return apply(shared(model), Design.of(Placement(*each) for each in sizes))


def noah_supernet(model: nn.Module) -> tuple[Supernet, Callable[[], Design]]:
    """NOAH's supernet, and designs drawn under its budget."""
    shape = shape_of(model)
    space = load_space(find_config("noah", "spaces"), shape.depth)
    budget = Budget(640_000, lambda design: count_params(design, shape))
    rng = np.random.default_rng(0)
    return Supernet(shared(model), space.largest), lambda: space.sample(rng, budget).design


def steps(where: Setting, methods: tuple[str, ...] = tuple(METHODS)) -> Iterator[tuple[str, Callable[[], Step]]]:
    """What makes each step, by the row's name; the first is the bare one."""
    model, inputs = where.load().requires_grad_(False), where.inputs()

    def step(make: Callable[[nn.Module], nn.Module]) -> Step:
        return Step(make(model), where, inputs)

    def step_of_supernet() -> Step:
        supernet, draw = noah_supernet(model)
        return Step(supernet.model, where, inputs, before=lambda: supernet.activate(draw()))

    yield "bare", partial(step, bare)
    if find_spec("peft"):
        yield "peft: LoRA r8 on qkv", lambda: Step(peft_lora(model), where, inputs, run=nn.Module.__call__)
    refused = {row["method"] for row in list_methods(shape_of(model).name) if row["refused"]}
    for name in (name for name in methods if name not in refused):
        size = get_method(name).default_size
        yield name if size is None else f"{name} {size}", partial(step, partial(with_method, name))
    if shape_of(model).depth == len(NOAH_CIFAR100["vpt"]):
        yield "NOAH's CIFAR-100 subnet", partial(step, noah_subnet)
        yield "NOAH's supernet, a new design", step_of_supernet


def merged(model: nn.Module, name: str) -> nn.Module:
    """The backbone with a method's usual design, merged."""
    return merge(with_method(name, copy.deepcopy(model)))
