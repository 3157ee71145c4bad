"""What torch has compiled, which does not know of designs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_kept: ContextVar[bool] = ContextVar("graphs_kept", default=False)


def forget_graphs() -> None:
    """Drop what torch.compile has made of other designs: it does not see that hooks differ."""
    if not _kept.get() and "torch._dynamo" in sys.modules:  # else nothing was compiled: to ask would import a compiler
        torch.compiler.reset()


@contextmanager
def graphs_kept() -> Iterator[None]:
    """A `with` block in which designs are inserted, and what torch has compiled before is kept.

    Only for models that nobody compiles as a whole: they would run the graphs of earlier designs.
    """
    token = _kept.set(True)
    try:
        yield
    finally:
        _kept.reset(token)
