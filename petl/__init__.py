"""What can be inserted: designs, methods and backbones; apply, merge, save and load."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petlas.petl.adapter_file import AdapterError, AdapterInfo, load_adapter, read_adapter_info, save_adapter
    from petlas.petl.backbone import (
        BackboneError,
        InputConfig,
        input_config,
        load_backbone,
        reset_head,
        shape_by_name,
        shape_of,
    )
    from petlas.petl.design import Design, DesignError, Placement
    from petlas.petl.methods import METHODS, get_method
    from petlas.petl.methods.base import Method
    from petlas.petl.shape import BackboneShape, Layer
    from petlas.petl.tuning import (
        apply,
        check_design,
        count_params,
        count_tuned,
        merge,
        prepare,
        remove,
        tuned_state_dict,
    )

# Names are looked up when they are first used, so that `petlas.petl.design` comes without torch.
_HOME = {
    "adapter_file": ("AdapterError", "AdapterInfo", "load_adapter", "read_adapter_info", "save_adapter"),
    "backbone": (
        "BackboneError",
        "InputConfig",
        "input_config",
        "load_backbone",
        "reset_head",
        "shape_by_name",
        "shape_of",
    ),
    "design": ("Design", "DesignError", "Placement"),
    "methods": ("METHODS", "get_method"),
    "methods.base": ("Method",),
    "shape": ("BackboneShape", "Layer"),
    "tuning": (
        "apply",
        "check_design",
        "count_params",
        "count_tuned",
        "merge",
        "prepare",
        "remove",
        "tuned_state_dict",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "METHODS",
    "AdapterError",
    "AdapterInfo",
    "BackboneError",
    "BackboneShape",
    "Design",
    "DesignError",
    "InputConfig",
    "Layer",
    "Method",
    "Placement",
    "apply",
    "check_design",
    "count_params",
    "count_tuned",
    "get_method",
    "input_config",
    "load_adapter",
    "load_backbone",
    "merge",
    "prepare",
    "read_adapter_info",
    "remove",
    "reset_head",
    "save_adapter",
    "shape_by_name",
    "shape_of",
    "tuned_state_dict",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module at first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
