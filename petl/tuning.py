"""Insert a design into a backbone, take it out again, or merge it into the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.backbones.base import Family
from petlas.petl.check import check_design, methods_of, parts_of
from petlas.petl.design import Design, DesignError
from petlas.petl.graphs import forget_graphs
from petlas.petl.parts.handles import ForwardOverride, Handle
from petlas.petl.parts.method import Batch, Loss
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.side import Side
from petlas.petl.parts.tuned_copies import TunedCopies
from petlas.petl.shape import BackboneShape
from petlas.petl.shared_weights import hold_own_weights


class Tuning(nn.Module):
    """What `apply` put on a model, found at `model.petl`: one module per method.

    Asked by itself, its `state_dict` and its parameters are all tuned values: what the methods inserted, the backbone's
    own parameters that they train, and the head, as `lora.blocks.0.q.down`, `bitfit.blocks.0.norm1.bias`,
    `head.weight`. The latter two are registered in the model, where they belong, and only there; so the model's state
    dict has every tensor once.
    """

    def __init__(self, model: nn.Module, design: Design, shape: BackboneShape) -> None:
        super().__init__()
        vars(self)["_model"] = model  # no submodule of its own submodule
        self.design = design
        self.family = family_of(model).name
        self.shape = shape
        self.handles: list[Handle] = []
        self._exposed: list[Handle] | None = None  # what any design needs, once it is there
        self._narrowed: dict[tuple[str, int | None], Placed[Any]] = {}
        self.trainable = {path: p.requires_grad for path, p in model.named_parameters()}
        head = family_of(model).head_place(model)
        self.original_head = TunedCopies(path for path in self.trainable if path.startswith(f"{head}."))

    def elsewhere(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The tuned parameters that are registered in the model: the backbone's own, and the head's as it now is."""
        for path, module in self.named_modules():
            if isinstance(module, TunedCopies) and module is not self.original_head:
                yield from ((f"{path}.{name}", parameter) for name, parameter in module.placed())
        model: nn.Module = vars(self)["_model"]
        yield from family_of(model).head(model).named_parameters(prefix="head")

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """All tuned parameters, those that are registered in the model included."""
        yield from super().named_parameters(prefix, recurse, remove_duplicate)
        start = f"{prefix}." if prefix else ""
        yield from ((start + name, parameter) for name, parameter in self.elsewhere())

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """All tuned values; as a part of the model's state dict, those that are registered here."""
        state = super().state_dict(*args, **kwargs)
        if not args and kwargs.get("destination") is None and not kwargs.get("prefix"):
            state |= {name: parameter.detach() for name, parameter in self.elsewhere()}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over tuned values, as `state_dict` gives them.

        Args:
            state_dict: The values.
            strict: Refuse names that are missing or unknown.
            assign: Not for values that are registered in the model: these are always copied.

        Raises:
            RuntimeError: When names or shapes are others than this design's; nothing is then set of the model's own.
        """
        own, faults = dict(state_dict), []
        values: list[tuple[nn.Parameter, Tensor]] = []
        for name, parameter in self.elsewhere():
            value = own.pop(name, None)
            if value is None:
                faults += [f"missing: {name}"] if strict else []
            elif value.shape != parameter.shape:
                faults.append(f"wrong shape: {name}: {tuple(value.shape)} for {tuple(parameter.shape)}")
            else:
                values.append((parameter, value))
        if faults:
            raise RuntimeError("; ".join(faults))
        result = super().load_state_dict(own, strict, assign)
        with torch.no_grad():
            for parameter, value in values:
                parameter.copy_(value)
        return result

    def connect(self, model: nn.Module, design: Design) -> None:
        """Attach a design, all or a part of what was built, in place of what is attached.

        Args:
            model: The model.
            design: The design.
        """
        self._detach()
        forget_graphs()
        if self._exposed is None:
            self._exposed = list(family_of(model).exposed(model))
        for method, placements in parts_of(design):
            module = self.get_submodule(method.name)
            changed = [p for p in placements if self._narrowed.get((method.name, p.place)) != p]
            method.narrow(module, changed)
            self._narrowed.update(((method.name, p.place), p) for p in changed)
            self.handles.extend(method.attach(model, module, placements))
        if hasattr(model, "forward_intermediates"):
            guarded = partial(_intermediates, self, design, model.forward_intermediates)
            self.handles.append(ForwardOverride(model, guarded, "forward_intermediates"))

    def disconnect(self) -> None:
        """Take off everything but the head."""
        self._detach()
        while self._exposed:
            self._exposed.pop().remove()
        self._exposed = None

    def _detach(self) -> None:
        while self.handles:
            self.handles.pop().remove()


def apply(model: nn.Module, design: Design) -> nn.Module:
    """Freeze a backbone and insert a design into it, from outside, in place.

    The head and the design's parameters are trainable afterwards, and nothing else. The model's own `state_dict` keys
    stay as they are; what is added stands under `petl.`. It stays in the mode, training or evaluation, that it is in.

    A model that was compiled before is compiled anew. Of several models with designs that are compiled side by side
    each wants `torch.compile(model, isolate_recompiles=True)`: by default torch does not see that their hooks differ.

    Args:
        model: A backbone of a known family, without a design.
        design: What to insert.

    Returns:
        The same model.

    Raises:
        DesignError: When the design cannot be inserted; the model is then left as it was.
        BackboneError: When the model is of no known family.
    """
    if hasattr(model, "petl"):
        raise DesignError("a model takes one design, and this one has a design; call petlas.petl.remove(model) first")
    family = family_of(model)
    shape = family.shape(model)
    check_design(design, shape)
    inputs = _head_inputs(family, model, design, shape)
    like = next(model.parameters())
    tuning = Tuning(model, design, shape)
    model.requires_grad_(False)
    model.zero_grad()
    model.petl = tuning
    try:
        head = tuning.original_head
        head.place(model)
        if inputs is not None:
            weight = family.head(model).get_parameter("weight")
            fresh = nn.init.trunc_normal_(weight.new_empty(len(weight), inputs), std=0.02)
            family.head(model).weight = nn.Parameter(fresh)
        for method, placements in parts_of(design):
            module = method.build(shape, placements)
            tuning.add_module(method.name, module.to(like.device, like.dtype))
        tuning.connect(model, design)
        tuning.train(model.training)
    except Exception:
        remove(model)
        raise
    return model


def _head_inputs(family: Family, model: nn.Module, design: Design, shape: BackboneShape) -> int | None:
    """Channels of the head's input, where a method of the design gives it another width than the backbone's."""
    for method, placements in parts_of(design):
        inputs = method.head_inputs(shape, placements)
        head = family.head(model)
        if inputs is None or isinstance(head, nn.Identity):
            continue
        if not isinstance(head, nn.Linear):
            raise DesignError(
                f"{method.name} gives the head an input of {inputs} channels, for which it must be one linear layer, "
                f"got a {type(head).__name__}; call petlas.petl.reset_head(model, classes) first"
            )
        return inputs
    return None


def prepare(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> nn.Module:
    """Let the methods that choose channels or entries for the task choose them, once, between `apply` and training.

    Args:
        model: A backbone with a design, before training.
        batches: Training images (B, 3, H, W), normalised, with their targets; can be gone through several times.
        loss: Logits (B, K) and targets to the mean loss over the batch.

    Returns:
        The same model.
    """
    tuning, training = tuning_of(model), model.training
    model.eval()
    for method, placements in parts_of(tuning.design):
        if method.fits_task:
            method.prepare(model, tuning.get_submodule(method.name), placements, batches, loss)
    model.zero_grad()
    return model.train(training)


def tuning_of(model: nn.Module) -> Tuning:
    """What `apply` put on a model.

    Raises:
        DesignError: When the model carries no design.
    """
    tuning = getattr(model, "petl", None)
    if not isinstance(tuning, Tuning):
        raise DesignError("the model carries no design; call petlas.petl.apply(model, design) first")
    return tuning


def remove(model: nn.Module) -> nn.Module:
    """Take the design out: the model is then what it was before `apply`, bit for bit, head included.

    A head that was set since then stays.

    Raises:
        DesignError: When the model carries no design.
    """
    tuning = tuning_of(model)
    tuning.disconnect()
    tuning.original_head.remove()
    del model.petl
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(tuning.trainable.get(path, False))
    model.zero_grad()
    return model


def merge(model: nn.Module) -> nn.Module:
    """Fold the design into the backbone's weights, in place: a plain timm model that computes the same.

    Raises:
        DesignError: When the design has a method that cannot be merged; the model is then left as it was.
    """
    tuning = tuning_of(model)
    parts = parts_of(tuning.design)
    fixed = [method.name for method, _ in parts if not method.mergeable]
    if fixed:
        raise DesignError(f"only methods that are linear in the features can be merged, and {', '.join(fixed)} cannot")
    keyless = any(layer.shadowed for layer in tuning.shape.layers)
    homeless = [method.name for method, _ in parts if keyless and method.shifts_keys]
    if homeless:
        raise DesignError(
            f"only what a backbone has a place for can be merged, and {', '.join(homeless)} would give the keys a "
            f"bias, which {tuning.shape.name} does not have; keep the adapter beside the backbone"
        )
    hold_own_weights(model)
    tuning.original_head.keep()
    for method, placements in parts:
        method.merge(model, tuning.get_submodule(method.name), placements)
    return remove(model)


def tuned_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The values that the design and the head add to the backbone, under self-explaining names."""
    return dict(tuning_of(model).state_dict())


def count_tuned(model: nn.Module) -> int:
    """Trainable parameters that the design has put on the model, head excluded, counted one by one.

    What a method adds to the head, so that it reads more, is the head's, too: it stands under the name `head`.
    """
    tuned = tuning_of(model).named_parameters()
    return sum(p.numel() for path, p in tuned if p.requires_grad and "head" not in path.split("."))


def trained_by(model: nn.Module) -> dict[str, str]:
    """For each trainable parameter of a model with a design, by its name: the method that trains it, or `head`."""
    owners = {id(p): name.partition(".")[0] for name, p in tuning_of(model).named_parameters()}
    return {name: owners[id(p)] for name, p in model.named_parameters() if p.requires_grad and id(p) in owners}


def undecayed(model: nn.Module) -> set[str]:
    """Names of the model's parameters that weight decay is not for, by what they mean.

    These are biases, norms and scales, which have one axis, and of those with more what a module or the family says:
    prompts, class and register tokens, position embeddings, biases of several axes.
    """
    names = {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    for path, module in model.named_modules():
        start = f"{path}." if path else ""
        names |= {start + name for name in getattr(module, "undecayed", ())}
    names |= family_of(model).undecayed(model)
    return names & {name for name, _ in model.named_parameters()}


def _intermediates(tuning: Tuning, design: Design, own: Any, *args: Any, **kwargs: Any) -> Any:
    """timm's `forward_intermediates`, where it gives the backbone's own tokens."""
    model: nn.Module = vars(tuning)["_model"]
    flows = "tokens" in family_of(model).sites
    for method in methods_of(design):
        if flows and method.strays(design.by_method[method.name], len(family_of(model).blocks(model))):
            raise DesignError(
                f"features between blocks must be the backbone's own tokens, and {method.name} keeps further ones in "
                "the stream of this design; place it at every block up to the last, or read the features of another "
                "design"
            )
        if kwargs.get("norm") and method.final_norm:
            raise DesignError(
                f"features between blocks cannot be normalised by the final norm, at which {method.name} acts, got "
                "norm=True; take norm=False"
            )
    try:
        return own(*args, **kwargs)
    finally:
        for module in tuning.modules():
            if isinstance(module, Side):
                module.forget()
