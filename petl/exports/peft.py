"""PEFT, the library of Hugging Face."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petlas.petl.adapter_file import AdapterInfo, plain_backbone
from petlas.petl.backbones import family_of
from petlas.petl.check import parts_of
from petlas.petl.exports.base import Loaded, Target
from petlas.petl.exports.errors import ExportError
from petlas.petl.parts.low_rank import LowRankMethod, Update
from petlas.petl.parts.subset_method import SubsetMethod
from petlas.petl.parts.tuned_copies import TunedCopies
from petlas.petl.tuning import tuning_of


@dataclass
class _Contents:
    """What a design is in PEFT's terms: low-rank updates by their layers, and parameters that are trained whole."""

    updates: dict[str, list[Update]] = field(default_factory=lambda: defaultdict(list))
    trained: list[str] = field(default_factory=list)


class Peft(Target):
    """A folder that `peft.PeftModel.from_pretrained(MODEL, FOLDER)` takes; MODEL is the plain timm model with a head.

    PEFT's LoRA knows no q, k and v in timm's fused layer, but a layer's updates together are one of the sum of their
    ranks: W + B A, where A (sum of r, I) has them one below the other and B (O, sum of r) is theirs in blocks, 0 in the
    rows of others. Ranks and alphas are by layer. With `dora` anywhere, all are PEFT's DoRA, which rows of a magnitude
    that is their own norm leave as they are. Biases that are trained are `bias="all"`; norms, and other layers that are
    trained whole, and the head are `modules_to_save`. What else a method may do has no place there.
    """

    name = "peft"
    packages = ("peft",)

    def write(self, model: nn.Module, info: AdapterInfo, path: Path) -> None:
        """Give the values to PEFT's own modules on a plain backbone, and let these save themselves."""
        import peft

        contents, family, tuned = _contents(model), family_of(model), dict(model.named_parameters())
        shape = family.shape(model)
        plain = plain_backbone(info, info.checkpoint).float()
        whole = [p for p in contents.trained if not p.endswith(".bias")]
        biases = [p for p in contents.trained if p.endswith(".bias")]
        saved = dict.fromkeys([p.rpartition(".")[0] for p in whole] + [family.head_place(model)])
        if not contents.updates:  # PEFT saves biases and heads beside a LoRA only: one that is 0
            first = shape.blocks[0].linears[0]
            contents.updates[first.path] = [_nothing(first.inputs)]
        factors = {
            layer: _factors(updates, plain.get_parameter(f"{layer}.weight"))
            for layer, updates in contents.updates.items()
        }
        dora = any(update.gain is not None for updates in contents.updates.values() for update in updates)
        ranks = {re.escape(layer): len(down) for layer, (down, _, _) in factors.items()}
        config = peft.LoraConfig(
            r=max(ranks.values()),
            lora_alpha=max(ranks.values()),  # a scale of 1: the design's own is in B
            rank_pattern=ranks,
            alpha_pattern=ranks,
            target_modules=list(factors),
            modules_to_save=list(saved),
            bias="all" if biases else "none",
            use_dora=dora,
        )
        vars(plain)["name_or_path"] = info.backbone  # PEFT keeps it as the base model's
        wrapped: Any = peft.get_peft_model(plain, config)
        _fill(wrapped.base_model.model, factors, dora)
        with torch.no_grad():
            for name in saved:
                own = wrapped.base_model.model.get_submodule(name).modules_to_save["default"]
                own.load_state_dict(model.get_submodule(name).state_dict())
            for name in biases:
                _bias(wrapped.base_model.model, name).copy_(tuned[name])
        wrapped.save_pretrained(path, save_embedding_layers=False)  # there are none, and PEFT would ask the Hub
        (path / "README.md").unlink(missing_ok=True)  # a form that nobody filled in

    def load(self, path: Path, backbone: Callable[[], nn.Module]) -> Loaded:
        """By PEFT, onto the plain backbone."""
        import peft

        model: nn.Module = peft.PeftModel.from_pretrained(backbone(), str(path))
        return model.eval()


@torch.no_grad()
def _fill(model: nn.Module, factors: dict[str, tuple[Tensor, Tensor, Tensor]], dora: bool) -> None:
    """Give PEFT's modules their values."""
    for layer, (down, up, magnitude) in factors.items():
        part: Any = model.get_submodule(layer)
        part.lora_A["default"].weight.copy_(down)
        part.lora_B["default"].weight.copy_(up)
        if dora:
            part.lora_magnitude_vector["default"].weight.copy_(magnitude)


def _contents(model: nn.Module) -> _Contents:
    """What the model's design is in PEFT's terms.

    Raises:
        ExportError: Naming the methods that it has no terms for.
    """
    tuning, contents = tuning_of(model), _Contents()
    refused = []
    for method, placements in parts_of(tuning.design):
        if isinstance(method, LowRankMethod):
            for update in method.updates(model, tuning.get_submodule(method.name), placements):
                contents.updates[update.layer].append(update)
        elif isinstance(method, SubsetMethod) and _are_of_layers(paths := _trained(model, method)):
            contents.trained += paths
        else:
            refused.append(method.name)
    changed = {p.rpartition(".")[0] for p in contents.trained if not p.endswith(".bias")}
    if refused or changed & contents.updates.keys():
        named = ", ".join(refused) or "low-rank updates of layers that are trained whole"
        raise ExportError(
            f"PEFT can express lora, dora, trained biases and trained layers, and this design has {named}; "
            "export to onnx or torchscript, or to timm where the design can be merged"
        )
    return contents


def _trained(model: nn.Module, method: SubsetMethod) -> list[str]:
    """The paths of the backbone's own parameters that a method trains."""
    copies = tuning_of(model).get_submodule(method.name)
    assert isinstance(copies, TunedCopies)
    own = {id(parameter) for _, parameter in copies.placed()}
    return [path for path, parameter in model.named_parameters() if id(parameter) in own]


def _are_of_layers(paths: Iterable[str]) -> bool:
    """Whether each parameter is a layer's: those of the model itself, such as tokens, PEFT cannot save."""
    return all("." in path for path in paths)


def _nothing(inputs: int) -> Update:
    return Update("", 0, torch.zeros(1, inputs), torch.zeros(1, 1))


def _factors(updates: list[Update], weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All updates of a layer as one: A (r, I), B (O, r), and the magnitudes of the rows (O,) for DoRA."""
    down = torch.cat([update.down for update in updates])
    gain = torch.ones(len(weight))
    for update in updates:
        if update.gain is not None:
            gain[update.start : update.start + len(update.up)] = update.gain
    up, column = torch.zeros(len(weight), len(down)), 0
    for update in updates:
        rows = slice(update.start, update.start + len(update.up))
        # DoRA's gain acts on all that is added, and what stands beside it is not meant to be scaled.
        own = update.up if update.gain is not None else update.up / gain[rows][:, None]
        up[rows, column : column + len(update.down)] = own
        column += len(update.down)
    return down, up, gain * torch.linalg.vector_norm(weight + up @ down, dim=1)


def _bias(model: nn.Module, path: str) -> Tensor:
    """A bias of the plain backbone by its path, where PEFT has put it."""
    layer = model.get_submodule(path.rpartition(".")[0])
    for inner in ("base_layer", "modules_to_save.default"):
        try:
            layer = layer.get_submodule(inner)
        except AttributeError:
            continue
    return layer.get_parameter("bias")
