"""Adapter files: a design, its trained values and the head, with a header that says what they belong to."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from petlas.petl.backbone import BackboneError, InputConfig, backbone_name, fingerprint, input_config, load_backbone
from petlas.petl.design import Design, DesignError
from petlas.petl.tuning import apply, remove, tuned_state_dict, tuning_of

FORMAT = 1
_HEADER = "petlas"


class AdapterError(ValueError):
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
    """

    backbone: str
    weights: str
    design: Design
    classes: tuple[str, ...]
    input: InputConfig
    score: dict[str, float] = field(default_factory=dict)
    task: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The header's text."""
        return json.dumps({"format": FORMAT} | asdict(self) | {"design": self.design.to_dict()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AdapterInfo:
        """The header of a text that `to_json` made."""
        try:
            data: dict[str, Any] = json.loads(text)
            if data.pop("format") != FORMAT:
                raise AdapterError(f"the adapter file has another format than {FORMAT}; install a petlas that knows it")
            box = data["input"]
            data["input"] = InputConfig(box["size"], tuple(box["mean"]), tuple(box["std"]), box["interpolation"])
            return cls(**data | {"design": Design.from_dict(data["design"]), "classes": tuple(data["classes"])})
        except AdapterError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AdapterError(f"the adapter file's header is damaged: {type(error).__name__}: {error}") from error


def frozen_fingerprint(model: nn.Module) -> str:
    """Fingerprint of the backbone's weights as they were pretrained: without head, tuned values and design.

    The pretrained values of tuned backbone parameters are left out too, so that it is the same before and after
    training; and the position embeddings, because their interpolation rounds differently from machine to machine.
    """
    left_out = {path for path, p in model.named_parameters() if p.requires_grad} | {"pos_embed"}
    state = {k: v for k, v in model.state_dict().items() if k not in left_out and not k.startswith(("petl.", "head."))}
    return fingerprint(state)


def save_adapter(
    model: nn.Module,
    path: str | Path,
    *,
    classes: tuple[str, ...] | list[str] = (),
    score: dict[str, float] | None = None,
    task: dict[str, str] | None = None,
) -> AdapterInfo:
    """Write the tuned values of a model as safetensors with a JSON header, atomically.

    Args:
        model: A backbone that carries a design.
        path: The file to write.
        classes: Names of the head's outputs; numbers where none are given.
        score: Figures to keep in the header.
        task: Name and fingerprint of the data.

    Returns:
        The header.

    Raises:
        DesignError: When the model carries no design.
        AdapterError: When the number of classes is not the head's.
    """
    outputs: int = getattr(model, "num_classes", 0)
    if classes and len(classes) != outputs:
        raise AdapterError(f"classes must name the head's {outputs} outputs, got {len(classes)} names")
    info = AdapterInfo(
        backbone=backbone_name(model),
        weights=frozen_fingerprint(model),
        design=tuning_of(model).design,
        classes=tuple(classes) or tuple(str(i) for i in range(outputs)),
        input=input_config(model),
        score=score or {},
        task=task or {},
    )
    state = {name: value.detach().cpu().contiguous().clone() for name, value in tuned_state_dict(model).items()}
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(save(state, metadata={"format": "pt", _HEADER: info.to_json()}))
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return info


def read_adapter_info(path: str | Path) -> AdapterInfo:
    """The header of an adapter file.

    Raises:
        AdapterError: When the file is missing, broken, or no adapter file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"cannot read {path} as an adapter file: {error}") from error
    if text is None:
        raise AdapterError(f"{path} has no petlas header: it is a safetensors file, but no adapter file")
    return AdapterInfo.from_json(text)


def load_adapter(path: str | Path, model: nn.Module | None = None, checkpoint: str | Path | None = None) -> nn.Module:
    """The tuned model of an adapter file, in evaluation mode.

    Args:
        path: The adapter file.
        model: The backbone with a head of the right size; made by name if not given.
        checkpoint: Where the backbone's weights lie, for a backbone whose weights are not on the Hub.

    Returns:
        The backbone with the design inserted and the values loaded.

    Raises:
        AdapterError: When the file is no adapter file, or the backbone has other weights than it was trained on; a
            given model is then left as it was.
    """
    info = read_adapter_info(path)
    if model is None:
        try:
            model = load_backbone(info.backbone, checkpoint, num_classes=len(info.classes), img_size=info.input.size)
        except BackboneError as error:
            raise AdapterError(f"{path} needs the backbone {info.backbone}: {error}") from error
    outputs, size = getattr(model, "num_classes", 0), input_config(model).size
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
    return model.eval()


def _load(model: nn.Module, state: dict[str, Tensor], info: AdapterInfo, path: str | Path) -> None:
    found = frozen_fingerprint(model)
    if found != info.weights:
        raise AdapterError(
            f"{path} was trained on other weights of {info.backbone} (fingerprint {info.weights}, here {found}); "
            "give the same checkpoint"
        )
    try:
        tuning_of(model).load_state_dict(state)
    except RuntimeError as error:
        raise AdapterError(f"{path} does not hold the values of its design: {error}") from error
