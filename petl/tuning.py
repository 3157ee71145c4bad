"""Insert a design into a backbone, take it out again, or merge it into the weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import torch._dynamo.config
from torch import Tensor, nn

from petlas.petl.backbone import shape_of
from petlas.petl.design import Design, DesignError
from petlas.petl.methods import METHODS, get_method
from petlas.petl.methods.base import Adopted, Batch, Handle, Method
from petlas.petl.shape import BackboneShape


class Tuning(nn.Module):
    """What `apply` put on a model, found at `model.petl`: one module per method, and the head.

    Its `state_dict` is the flat dict of all tuned values: `lora.blocks.0.q.down`, `head.weight`, ...
    """

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.design = design
        self.handles: list[Handle] = []  # the head's first, then those of the methods
        self.trainable: dict[str, bool] = {}

    def connect(self, model: nn.Module, design: Design) -> None:
        """Attach a design, all or a part of what was built, in place of what is attached."""
        self.disconnect()
        for method in methods_of(design):
            module, placements = self.get_submodule(method.name), design.by_method[method.name]
            method.narrow(module, placements)
            self.handles.extend(method.attach(model, module, placements))

    def disconnect(self) -> None:
        """Take off everything but the head."""
        for handle in reversed(self.handles[1:]):
            handle.remove()
        del self.handles[1:]


def methods_of(design: Design) -> list[Method]:
    """The methods of a design, in the order in which they act.

    Raises:
        DesignError: On a name that is no method's.
    """
    for name in design.by_method:
        if name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the methods are {', '.join(METHODS)}"
            raise DesignError(f"method must be a known method, got method={name!r}; {hint}")
    return [get_method(name) for name in METHODS if name in design.by_method]


def check_design(design: Design, shape: BackboneShape) -> None:
    """Refuse a design that cannot be inserted into a backbone of that shape.

    Raises:
        DesignError: Naming the rule, the value and what to do.
    """
    methods = methods_of(design)
    for method in methods:
        if not method.combines and len(methods) > 1:
            others = ", ".join(other.name for other in methods if other is not method)
            raise DesignError(f"{method.name} stands alone in a design, got it together with {others}")
        for placement in design.by_method[method.name]:
            method.check(shape, placement)
    _check_together(methods)
    trained: dict[str, str] = {}
    for method in methods:
        for path in method.paths(shape, design.by_method[method.name]):
            if path in trained:
                raise DesignError(
                    f"a parameter can be tuned by one method only, and {path} is by {trained[path]} and {method.name}; "
                    "keep one"
                )
            trained[path] = method.name


def _check_together(methods: list[Method]) -> None:
    """Refuse methods of which one makes the other useless."""
    replaced: dict[str, str] = {}
    for method in methods:
        if method.replaces is None:
            continue
        if method.replaces in replaced:
            first = replaced[method.replaces]
            raise DesignError(f"one method may replace {method.replaces}, got {first} and {method.name}; keep one")
        replaced[method.replaces] = method.name
        dead = [other.name for other in methods if other.through_backbone and other is not method]
        if dead and not method.through_backbone:
            raise DesignError(
                f"what is trained must reach the head, and {method.name} replaces {method.replaces} without passing "
                f"gradients to the backbone, got {', '.join(dead)} beside it; leave out {method.name} or the others"
            )


def count_params(design: Design, model: nn.Module | BackboneShape) -> int:
    """Trainable parameters of a design by formula, head excluded, before anything is built.

    Args:
        design: The design.
        model: The backbone that it is for, or its shape.

    Raises:
        DesignError: When the design cannot be inserted into this backbone.
    """
    shape = model if isinstance(model, BackboneShape) else shape_of(model)
    check_design(design, shape)
    return sum(method.count(shape, design.by_method[method.name]) for method in methods_of(design))


def apply(model: nn.Module, design: Design) -> nn.Module:
    """Freeze a backbone and insert a design into it, from outside, in place.

    The head and the design's parameters are trainable afterwards, and nothing else. The model's own `state_dict` keys
    stay as they are; what is added stands under `petl.`.

    Args:
        model: A timm vision transformer without a design.
        design: What to insert.

    Returns:
        The same model.

    Raises:
        DesignError: When the design cannot be inserted; the model is then left as it was.
        BackboneError: When the model is no plain vision transformer of timm.
    """
    # Designs differ in their hooks: without guards on these, torch.compile may run an earlier design's graph instead.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    if hasattr(model, "petl"):
        raise DesignError("a model takes one design, and this one has a design; call petlas.petl.remove(model) first")
    shape = shape_of(model)
    check_design(design, shape)
    like = next(model.parameters())
    tuning = Tuning(design)
    tuning.trainable = {path: p.requires_grad for path, p in model.named_parameters()}
    model.requires_grad_(False)
    model.zero_grad()
    model.petl = tuning
    try:
        head = _head_for(model, design, shape)
        head.adopt(model)
        tuning.handles.append(head)
        for method in methods_of(design):
            module = method.build(shape, design.by_method[method.name])
            tuning.add_module(method.name, module.to(like.device, like.dtype))
        tuning.connect(model, design)
        tuning.add_module("head", head.get_submodule("head") if head.paths else nn.Identity())
        tuning.train(model.training)
    except Exception:
        remove(model)
        raise
    return model


def _head_for(model: nn.Module, design: Design, shape: BackboneShape) -> Adopted:
    """The model's head, with a newly drawn weight where a method gives it an input of another width."""
    head = Adopted(path for path, _ in model.named_parameters() if path.startswith("head."))
    for method in methods_of(design):
        inputs = method.head_inputs(shape, design.by_method[method.name])
        if inputs is not None and head.paths:
            weight = model.get_parameter("head.weight")
            fresh = nn.init.trunc_normal_(weight.new_empty(len(weight), inputs), std=0.02)
            head.add("head.weight", nn.Parameter(fresh))
    return head


def prepare(model: nn.Module, batches: Iterable[Batch]) -> nn.Module:
    """Let the methods that choose channels or entries for the task choose them, once, between `apply` and training.

    Args:
        model: A backbone with a design, before training.
        batches: Training images (B, 3, H, W), normalised, with labels (B,); can be gone through several times.

    Returns:
        The same model.
    """
    tuning, training = tuning_of(model), model.training
    model.eval()
    for method in methods_of(tuning.design):
        if method.fits_task:
            placements = tuning.design.by_method[method.name]
            method.prepare(model, tuning.get_submodule(method.name), placements, batches)
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

    Raises:
        DesignError: When the model carries no design.
    """
    tuning = tuning_of(model)
    for handle in reversed(tuning.handles):
        handle.remove()
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
    methods = methods_of(tuning.design)
    fixed = [method.name for method in methods if not method.mergeable]
    if fixed:
        raise DesignError(f"only methods that are linear in the features can be merged, and {', '.join(fixed)} cannot")
    for handle in tuning.handles:
        if isinstance(handle, Adopted):
            handle.keep()
    for method in methods:
        method.merge(model, tuning.get_submodule(method.name), tuning.design.by_method[method.name])
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
