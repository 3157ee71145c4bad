"""Several designs on one backbone, switched by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from petlas.petl.adapter_file import load_adapter, read_adapter_info
from petlas.petl.backbones import family_of
from petlas.petl.backbones.load import reset_head
from petlas.petl.copies import copied
from petlas.petl.design import Design, DesignError
from petlas.petl.shared_weights import share_weights
from petlas.petl.tuning import apply, merge


class Adapters(nn.Module):
    """Several designs on one backbone: each with its own head and name, one of them in use.

    Each design stands on modules of its own whose frozen weights are the backbone's: the same tensors, held once. So
    a switch costs nothing, a design computes to the last bit what it computes alone, none sees another, and the
    backbone itself is never touched. The state dict has each tensor once: `backbone.…` and `designs.NAME.…`.

    Args:
        backbone: A backbone of a known family without a design. It is frozen while there are designs on it.

    Raises:
        DesignError: When the backbone carries a design.
        BackboneError: When it is of no known family.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        if hasattr(backbone, "petl"):
            raise DesignError(
                "several designs stand on a plain backbone, and this one has a design; call petlas.petl.remove(model) "
                "first"
            )
        family_of(backbone)
        self.backbone = share_weights(backbone)
        self.designs = nn.ModuleDict()
        self.active: str | None = None
        self._trainable: dict[str, bool] = {}
        self.register_state_dict_post_hook(_drop_shared)
        self.register_load_state_dict_pre_hook(_fill_shared)

    def add(self, name: str, design: Design | str | Path, num_classes: int | None = None) -> nn.Module:
        """Add a design under a name, and use it if it is the first.

        Args:
            name: Its name.
            design: An adapter file, or a design to train.
            num_classes: Outputs of the head of a design to train; by default as many as the backbone has.

        Returns:
            The model with this design, in the mode, training or evaluation, of the backbone.

        Raises:
            DesignError: On a name that is taken or cannot be one, or a design that cannot be inserted.
            AdapterError: When the file is no adapter file, or for another backbone or image size.
        """
        self._check_new(name)
        classes = num_classes if isinstance(design, Design) else len(read_adapter_info(design).classes)
        flags = {path: p.requires_grad for path, p in self.backbone.named_parameters()}
        try:
            twin = self.twin(classes)
            model = apply(twin, design) if isinstance(design, Design) else load_adapter(design, twin)
        except BaseException:
            self._restore(flags)
            raise
        if not self.designs:
            self._trainable = flags
        self.designs[name] = model.train(self.backbone.training)
        if self.active is None:
            self.active = name
        return model

    def twin(self, num_classes: int | None = None) -> nn.Module:
        """The backbone once more: modules of its own, with the same weights.

        Args:
            num_classes: Outputs of its head, which is a new one where they are not as many; None for as it is.
        """
        twin = _twin(self.backbone)
        if num_classes is not None and num_classes != family_of(twin).outputs(twin):
            reset_head(twin, num_classes)
            family_of(twin).head(twin).to(next(self.backbone.parameters()))
        return twin

    def use(self, name: str | None) -> nn.Module:
        """Choose what `forward` computes.

        Args:
            name: A design's; None for the backbone as it is.

        Returns:
            The model with this design.

        Raises:
            DesignError: On a name that is no design's.
        """
        model = self.backbone if name is None else self[name]
        self.active = name
        return model

    def remove(self, name: str) -> None:
        """Drop a design; where it was in use, the backbone as it is then is.

        Args:
            name: Its name.

        Raises:
            DesignError: On a name that is no design's.
        """
        self[name]  # refuses what is none
        del self.designs[name]
        if self.active == name:
            self.active = None
        if not self.designs:
            self._restore(self._trainable)

    def merged(self, name: str) -> nn.Module:
        """A plain timm model, with weights of its own, that computes what a design computes here.

        Args:
            name: The design's.

        Raises:
            DesignError: On a name that is no design's, or when the design cannot be merged.
        """
        return merge(copied(self[name]))

    def mixed(self, images: Tensor, names: Sequence[str | None]) -> list[Tensor]:
        """The outputs of a batch of which each image has a design of its own.

        Images of one design go through it together: their outputs are those of this smaller batch, to the last bit.

        Args:
            images: (B, 3, H, W), normalised.
            names: The design of each; None for the backbone as it is.

        Returns:
            A vector for each image, as long as its design has classes.

        Raises:
            DesignError: On a name that is no design's, or another number of names than of images.
        """
        if len(names) != len(images):
            raise DesignError(f"each image needs the name of its design, got {len(names)} names, {len(images)} images")
        models = {name: self.backbone if name is None else self[name] for name in names}
        rows: dict[int, Tensor] = {}
        for name, model in models.items():
            places = [place for place, other in enumerate(names) if other == name]
            rows.update(zip(places, model(images[places]), strict=True))
        return [rows[place] for place in range(len(names))]

    def forward(self, images: Tensor) -> Tensor:
        """What the design in use computes.

        Args:
            images: (B, 3, H, W), normalised.
        """
        outputs: Tensor = (self.backbone if self.active is None else self.designs[self.active])(images)
        return outputs

    def __getitem__(self, name: str) -> nn.Module:
        """The model with the design of that name: to compute, train, compile or save like any other."""
        if name not in self.designs:
            raise DesignError(f"there is no design {name!r}; there are {', '.join(self.designs) or 'none yet'}")
        return self.designs[name]

    def __iter__(self) -> Iterator[str]:
        """The names of the designs, in the order in which they came."""
        return iter(self.designs)

    def __len__(self) -> int:
        """How many designs there are."""
        return len(self.designs)

    def __contains__(self, name: str) -> bool:
        """Whether there is a design of that name."""
        return name in self.designs

    def _check_new(self, name: str) -> None:
        if name in self.designs:
            raise DesignError(f"each design has a name of its own, and {name!r} is taken; remove it first")
        if not name or "." in name or hasattr(nn.ModuleDict, name) or name in vars(nn.ModuleDict()):
            raise DesignError(
                f"the name of a design is a part of names of tensors, so it has no dot and is no name of torch's, got "
                f"{name!r}; choose another"
            )

    def _restore(self, flags: dict[str, bool]) -> None:
        if self.designs:
            return
        for path, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(flags[path])


def _twin(model: nn.Module) -> nn.Module:
    """The same modules once more, with the same tensors."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copied(model, memo)


def _shared(adapters: Adapters) -> dict[str, str]:
    """Names in the state dict of what a design has of the backbone, with the backbone's own name for it."""
    named: dict[int, str] = {id(t): path for path, t in _tensors(adapters.backbone)}
    return {
        f"designs.{name}.{path}": f"backbone.{named[id(tensor)]}"
        for name, model in adapters.designs.items()
        for path, tensor in _tensors(model)
        if id(tensor) in named
    }


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))


def _drop_shared(adapters: Adapters, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    for path in _shared(adapters):
        state.pop(prefix + path, None)


def _fill_shared(adapters: Adapters, state: dict[str, Any], prefix: str, *others: Any) -> None:
    for path, own in _shared(adapters).items():
        if prefix + own in state:
            state[prefix + path] = state[prefix + own]
