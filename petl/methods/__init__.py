"""The methods that can be placed. To add one: write its file, and add its line here."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from petlas.petl.methods.base import Method

# In the order in which methods act on the same layer: reparameterisations before whatever follows them.
METHODS: dict[str, str] = {
    "linear": "petlas.petl.methods.linear:Linear",
    "full": "petlas.petl.methods.full:Full",
    "bitfit": "petlas.petl.methods.bitfit:BitFit",
    "lora": "petlas.petl.methods.lora:LoRA",
    "ssf": "petlas.petl.methods.ssf:SSF",
    "adapter": "petlas.petl.methods.adapter:Adapter",
    "adaptformer": "petlas.petl.methods.adaptformer:AdaptFormer",
    "vpt": "petlas.petl.methods.vpt:VPT",
}


@cache
def get_method(name: str) -> Method:
    """The method of that name; a method's file is imported when it is first asked for.

    Raises:
        KeyError: When no method has that name.
    """
    module, _, attribute = METHODS[name].partition(":")
    method: Method = getattr(import_module(module), attribute)()
    return method


__all__ = ["METHODS", "get_method"]
