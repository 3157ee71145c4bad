"""Adapter files: a design, its trained values and the head, with a header that says what they belong to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from petlas import __version__
from petlas.errors import UserError
from petlas.files import replacing
from petlas.petl.backbones import family_of
from petlas.petl.backbones.anatomy import backbone_name
from petlas.petl.backbones.base import BackboneError
from petlas.petl.backbones.load import InputConfig, checkpoint_of, fingerprint, input_config, load_backbone
from petlas.petl.copies import copied
from petlas.petl.design import Design, DesignError
from petlas.petl.tuning import apply, remove, tuned_state_dict, tuning_of

FORMAT = 3
"""What is written; what has been written since format 1 can be read."""

_HEADER = "petlas"


class AdapterError(UserError):
    """An adapter file that cannot be read or does not fit: the message says why and what to do."""


@dataclass(frozen=True)
class AdapterInfo:
    """The header of an adapter file.

    Args:
        backbone: The timm name of the backbone.
        weights: Fingerprint of the backbone's frozen weights.
        design: What is inserted.
        classes: Names of the head's outputs, in order.
        input: Image size and normalisation.
        score: What was measured, for example `{"test": 0.97}`.
        task: Name and fingerprint of the data that it was trained on.
        checkpoint: Where the backbone's weights were found; None for those of the Hub.
        dtype: The type of the backbone's weights.
        kind: What the targets are, such as `single_label`.
        metric: What the score is of, such as `accuracy`.
        version: Of the petlas that wrote it.
    """

    backbone: str
    weights: str
    design: Design
    classes: tuple[str, ...]
    input: InputConfig
    score: dict[str, float] = field(default_factory=dict)
    task: dict[str, str] = field(default_factory=dict)
    checkpoint: str | None = None
    dtype: str = "float32"
    kind: str = "single_label"
    metric: str = "accuracy"
    version: str = ""

    def to_json(self) -> str:
        """The header's text."""
        return json.dumps({"format": FORMAT} | asdict(self) | {"design": self.design.to_dict()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AdapterInfo:
        """The header of a text that `to_json` made, of this petlas or an earlier one.

        Raises:
            AdapterError: When it is of a later format, or damaged.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if data.pop("format") not in range(1, FORMAT + 1):
                raise AdapterError(
                    f"the adapter file has another format than 1 to {FORMAT}; install a petlas that knows it"
                )
            box = data["input"]
            box |= {"mean": tuple(box["mean"]), "std": tuple(box["std"])}
            data["input"] = InputConfig(**box)
            info = cls(**data | {"design": Design.from_dict(data["design"]), "classes": tuple(data["classes"])})
            _dtype(info.dtype)
            return info
        except AdapterError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AdapterError(f"the adapter file's header is damaged: {type(error).__name__}: {error}") from error


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a type of torch, got {name!r}")
    return dtype


def frozen_fingerprint(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Fingerprint of the backbone's weights as they were pretrained: without head, tuned values and design.

    The pretrained values of tuned backbone parameters are left out too, so that it is the same before and after
    training; and what is interpolated to an image size, because that rounds differently from machine to machine.

    Args:
        model: A backbone that carries a design.
        dtype: Round to this type first.
    """
    return fingerprint(_frozen(model), dtype)


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    family = family_of(model)
    tuned = {id(parameter) for _, parameter in tuning_of(model).elsewhere()}
    left_out = {path for path, p in model.named_parameters() if id(p) in tuned or family.recomputes(path)}
    apart = ("petl.", f"{family.head_place(model)}.")
    return {k: v for k, v in model.state_dict().items() if k not in left_out and not k.startswith(apart)}


def save_adapter(
    model: nn.Module,
    path: str | Path,
    *,
    classes: tuple[str, ...] | list[str] = (),
    score: dict[str, float] | None = None,
    task: dict[str, str] | None = None,
    input: InputConfig | None = None,
    kind: str = "single_label",
    metric: str = "accuracy",
) -> AdapterInfo:
    """Write the tuned values of a model as safetensors with a JSON header, whole or not at all.

    The file takes its name only when it was loaded back and stands for the model: head, design and values.

    Args:
        model: A backbone that carries a design.
        path: The file to write.
        classes: Names of the head's outputs; numbers where none are given.
        score: Figures to keep in the header.
        task: Name and fingerprint of the data.
        input: How the images were normalised, if not as timm records it for the backbone.
        kind: What the targets are.
        metric: What the score is of.

    Returns:
        The header.

    Raises:
        DesignError: When the model carries no design.
        AdapterError: When the number of classes is not the head's, or the file would not give the model back.
    """
    design = tuning_of(model).design
    outputs = family_of(model).outputs(model)
    if classes and len(classes) != outputs:
        raise AdapterError(f"classes must name the head's {outputs} outputs, got {len(classes)} names")
    _refuse_what_is_left_out(model)
    info = AdapterInfo(
        backbone=backbone_name(model),
        weights=frozen_fingerprint(model),
        design=design,
        classes=tuple(classes) or tuple(str(i) for i in range(outputs)),
        input=input or input_config(model),
        score=score or {},
        task=task or {},
        checkpoint=checkpoint_of(model),
        dtype=str(next(iter(_frozen(model).values()), torch.zeros(1)).dtype).removeprefix("torch."),
        kind=kind,
        metric=metric,
        version=__version__,
    )
    state = {name: value.detach().cpu().contiguous().clone() for name, value in tuned_state_dict(model).items()}
    content = save(state, metadata={"format": "pt", _HEADER: info.to_json()})
    with replacing(Path(path)) as file:
        file.write(content)
        file.flush()
        _verify(model, state, file.name)
    return info


def _refuse_what_is_left_out(model: nn.Module) -> None:
    """Refuse a model of which a file would not hold all that is trained."""
    head = family_of(model).head(model)
    if not isinstance(head, nn.Linear | nn.Identity):
        raise AdapterError(
            f"an adapter file holds a head of one linear layer, got a {type(head).__name__}; set it with "
            "petlas.petl.reset_head(model, classes)"
        )
    tuned = {id(parameter) for parameter in tuning_of(model).parameters()}
    others = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in tuned]
    if others:
        named = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise AdapterError(
            f"an adapter file holds what its design trains, and {named} can be trained, too; freeze what was not "
            "trained, or place the method that trains it, such as full, bitfit or ln_tune"
        )


def _verify(model: nn.Module, state: dict[str, Tensor], path: str) -> None:
    """Refuse a file that does not give the values of a model back on the backbone that the model was made of."""
    rng = torch.get_rng_state()  # drawing a fresh design and head leaves no trace
    try:
        family, twin = family_of(model), copied(model)
        head = copied(family.head(twin))
        remove(twin)
        try:
            if isinstance(head, nn.Linear):
                family.reset_head(twin, head.out_features)
                family.head(twin).to(head.weight)
            loaded = tuned_state_dict(load_adapter(path, twin))
        except (UserError, RuntimeError) as error:
            raise AdapterError(f"the adapter file would not load again: {error}") from error
    finally:
        torch.set_rng_state(rng)
    changed = [name for name in state.keys() | loaded.keys() if not _same(state.get(name), loaded.get(name))]
    if changed:
        raise AdapterError(f"the adapter file would load with other values of {', '.join(sorted(changed)[:3])}")


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.allclose(one, other.cpu(), rtol=0, atol=0, equal_nan=True)


def read_adapter_info(path: str | Path) -> AdapterInfo:
    """The header of an adapter file.

    Raises:
        AdapterError: When the file is missing, broken, or no adapter file.
    """
    if Path(path).is_dir():
        raise AdapterError(f"cannot read {path} as an adapter file: it is a folder; name the .safetensors file in it")
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER)
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"cannot read {path} as an adapter file: {error}; name one that petlas retrain wrote"
        ) from error
    if text is None:
        raise AdapterError(f"{path} has no petlas header: it is a safetensors file, but no adapter file")
    return AdapterInfo.from_json(text)


def load_adapter(path: str | Path, model: nn.Module | None = None, checkpoint: str | Path | None = None) -> nn.Module:
    """The tuned model of an adapter file; in evaluation mode if it is made here, in its own mode if it is given.

    Args:
        path: The adapter file.
        model: The backbone with a head of the right size; made by name if not given.
        checkpoint: Where the backbone's weights lie; by default where they lay when the file was written, else the
            Hub. Whatever is found must have the fingerprint in the file.

    Returns:
        The backbone with the design inserted and the values loaded.

    Raises:
        AdapterError: When the file is no adapter file, or the backbone has other weights than it was trained on; a
            given model is then left as it was.
    """
    info = read_adapter_info(path)
    if model is None:
        try:
            model = plain_backbone(info, checkpoint)
        except BackboneError as error:
            recorded = info.checkpoint
            lost = recorded is not None and not Path(recorded).is_file()
            gone = f" (its weights lay at {recorded}, where no file is now)" if lost else ""
            raise AdapterError(f"{path} needs the backbone {info.backbone}{gone}: {error}") from error
    outputs, size = family_of(model).outputs(model), input_config(model).size
    if outputs != len(info.classes) or size != info.input.size:
        raise AdapterError(
            f"{path} is for {len(info.classes)} classes and images of {info.input.size} pixels, and the model has "
            f"{outputs} outputs and takes {size} pixels; load the backbone with those"
        )
    with safe_open(str(path), framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        apply(model, info.design)
    except DesignError as error:
        raise AdapterError(f"{path} does not fit {backbone_name(model)}: {error}") from error
    try:
        _load(model, state, info, path)
    except BaseException:
        remove(model)
        raise
    return model


def plain_backbone(info: AdapterInfo, checkpoint: str | Path | None = None) -> nn.Module:
    """The pretrained backbone that an adapter file is for, with a fresh head.

    Args:
        info: The adapter file's header.
        checkpoint: Where its weights lie; by default where they lay when the file was written, else the Hub.

    Raises:
        BackboneError: When it cannot be had.
    """
    recorded = info.checkpoint if info.checkpoint and Path(info.checkpoint).is_file() else None
    outputs, size = len(info.classes), info.input.size
    return load_backbone(info.backbone, checkpoint or recorded, num_classes=outputs, img_size=size).to(
        _dtype(info.dtype)
    )


def _load(model: nn.Module, state: dict[str, Tensor], info: AdapterInfo, path: str | Path) -> None:
    dtype = _dtype(info.dtype)
    own = next((v.dtype for v in _frozen(model).values() if v.is_floating_point()), dtype)
    if torch.promote_types(own, dtype) != own:
        raise AdapterError(
            f"{path} was trained on weights of type {info.dtype}, and the model has only {own}; load the backbone in "
            f"{info.dtype} and convert the tuned model"
        )
    found = frozen_fingerprint(model, dtype)
    if found != info.weights:
        raise AdapterError(
            f"{path} was trained on other weights of {info.backbone} (fingerprint {info.weights}, here {found}); "
            "give the same checkpoint"
        )
    try:
        tuning_of(model).load_state_dict(state)
    except RuntimeError as error:
        raise AdapterError(f"{path} does not hold the values of its design: {error}") from error
