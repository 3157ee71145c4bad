"""What can be inserted: designs, methods and backbones; apply, merge, save and load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petlas.lazy import offered

if TYPE_CHECKING:
    from petlas.petl.adapter_file import (
        AdapterError,
        AdapterInfo,
        load_adapter,
        plain_backbone,
        read_adapter_info,
        save_adapter,
    )
    from petlas.petl.adapters import Adapters
    from petlas.petl.attention import attention_maps, over_patches, rollout
    from petlas.petl.backbones import FAMILIES, family_of, get_family
    from petlas.petl.backbones.anatomy import backbone_name
    from petlas.petl.backbones.base import BackboneError, BlockSites, Family
    from petlas.petl.backbones.load import (
        MINI,
        InputConfig,
        checkpoint_of,
        fingerprint,
        input_config,
        licence_of,
        load_backbone,
        reset_head,
        shape_by_name,
        shape_of,
        usual_crop,
    )
    from petlas.petl.backbones.site import Site
    from petlas.petl.check import check_design, count_params, methods_of
    from petlas.petl.compiled import CompiledBlocks, can_compile
    from petlas.petl.design import Design, DesignError, Option, Placement
    from petlas.petl.exports import EXPORTS, ExportError, InexactError
    from petlas.petl.exports.export import Exported, export_adapter
    from petlas.petl.graphs import graphs_kept
    from petlas.petl.methods import METHODS, get_method
    from petlas.petl.parts.block_method import BlockMethod
    from petlas.petl.parts.casts import frozen_casts
    from petlas.petl.parts.draws import Draws, gpu_generator
    from petlas.petl.parts.method import Batch, Loss, Method
    from petlas.petl.parts.placed import NoOptions, Placed
    from petlas.petl.parts.subset_method import SubsetMethod
    from petlas.petl.prefix import Prefix, Streams, prefix_of, resume, run_prefix, untouched
    from petlas.petl.sensitivity import Criterion, sensitivities
    from petlas.petl.shape import BackboneShape, BlockShape, BlockTensor, Layer, block_tensors
    from petlas.petl.supernet import Supernet
    from petlas.petl.trainable import freeze, print_trainable, unfreeze
    from petlas.petl.tuning import (
        Tuning,
        apply,
        count_tuned,
        merge,
        prepare,
        remove,
        trained_by,
        tuned_state_dict,
        tuning_of,
        undecayed,
    )
    from petlas.petl.usual import everywhere

# Names are looked up when they are first used, so that `petlas.petl.design` comes without torch.
_HOME = {
    "adapter_file": (
        "AdapterError",
        "AdapterInfo",
        "load_adapter",
        "plain_backbone",
        "read_adapter_info",
        "save_adapter",
    ),
    "adapters": ("Adapters",),
    "attention": (
        "attention_maps",
        "over_patches",
        "rollout",
    ),
    "backbones": (
        "FAMILIES",
        "family_of",
        "get_family",
    ),
    "backbones.base": (
        "BackboneError",
        "BlockSites",
        "Family",
    ),
    "backbones.load": (
        "MINI",
        "InputConfig",
        "checkpoint_of",
        "fingerprint",
        "input_config",
        "licence_of",
        "load_backbone",
        "reset_head",
        "shape_by_name",
        "shape_of",
        "usual_crop",
    ),
    "backbones.anatomy": ("backbone_name",),
    "backbones.site": ("Site",),
    "check": ("check_design", "count_params", "methods_of"),
    "compiled": (
        "CompiledBlocks",
        "can_compile",
    ),
    "design": (
        "Design",
        "DesignError",
        "Option",
        "Placement",
    ),
    "usual": ("everywhere",),
    "exports": (
        "EXPORTS",
        "ExportError",
        "InexactError",
    ),
    "exports.export": (
        "Exported",
        "export_adapter",
    ),
    "graphs": ("graphs_kept",),
    "methods": (
        "METHODS",
        "get_method",
    ),
    "pack": (
        "Pack",
        "groups",
    ),
    "parts.block_method": ("BlockMethod",),
    "parts.casts": ("frozen_casts",),
    "parts.draws": ("Draws", "gpu_generator"),
    "parts.method": ("Batch", "Loss", "Method"),
    "parts.placed": ("NoOptions", "Placed"),
    "parts.subset_method": ("SubsetMethod",),
    "prefix": (
        "Prefix",
        "Streams",
        "prefix_of",
        "resume",
        "run_prefix",
        "untouched",
    ),
    "sensitivity": (
        "Criterion",
        "sensitivities",
    ),
    "shape": (
        "BackboneShape",
        "BlockShape",
        "BlockTensor",
        "Layer",
        "block_tensors",
    ),
    "supernet": ("Supernet",),
    "trainable": (
        "freeze",
        "print_trainable",
        "unfreeze",
    ),
    "tuning": (
        "Tuning",
        "apply",
        "count_tuned",
        "merge",
        "prepare",
        "remove",
        "trained_by",
        "tuned_state_dict",
        "tuning_of",
        "undecayed",
    ),
}

__all__ = [
    "EXPORTS",
    "FAMILIES",
    "METHODS",
    "MINI",
    "AdapterError",
    "AdapterInfo",
    "Adapters",
    "BackboneError",
    "BackboneShape",
    "Batch",
    "BlockMethod",
    "BlockShape",
    "BlockSites",
    "BlockTensor",
    "CompiledBlocks",
    "Criterion",
    "Design",
    "DesignError",
    "Draws",
    "ExportError",
    "Exported",
    "Family",
    "InexactError",
    "InputConfig",
    "Layer",
    "Loss",
    "Method",
    "NoOptions",
    "Option",
    "Pack",
    "Placed",
    "Placement",
    "Prefix",
    "Site",
    "Streams",
    "SubsetMethod",
    "Supernet",
    "Tuning",
    "apply",
    "attention_maps",
    "backbone_name",
    "block_tensors",
    "can_compile",
    "check_design",
    "checkpoint_of",
    "count_params",
    "count_tuned",
    "everywhere",
    "export_adapter",
    "family_of",
    "fingerprint",
    "freeze",
    "frozen_casts",
    "get_family",
    "get_method",
    "gpu_generator",
    "graphs_kept",
    "groups",
    "input_config",
    "licence_of",
    "load_adapter",
    "load_backbone",
    "merge",
    "methods_of",
    "over_patches",
    "plain_backbone",
    "prefix_of",
    "prepare",
    "print_trainable",
    "read_adapter_info",
    "remove",
    "reset_head",
    "resume",
    "rollout",
    "run_prefix",
    "save_adapter",
    "sensitivities",
    "shape_by_name",
    "shape_of",
    "trained_by",
    "tuned_state_dict",
    "tuning_of",
    "undecayed",
    "unfreeze",
    "untouched",
    "usual_crop",
]


__getattr__ = offered(__name__, _HOME)


def __dir__() -> list[str]:
    """All public names, whether they have been used or not."""
    return sorted({*globals(), *__all__})
