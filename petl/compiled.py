"""Blocks that are compiled: one graph for all blocks of a kind, of every design on a backbone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.kind import Kind, UnlikeError
from petlas.petl.parts.handles import ForwardOverride, Handle, replaced

Backend: TypeAlias = str | Callable[..., Any]
"""As for `torch.compile`."""

Outcome: TypeAlias = tuple[Tensor, ...]
"""What a block gave, and gradients."""


def can_compile() -> bool:
    """Whether this torch keeps the graphs of functions apart that are compiled side by side."""
    return "isolate_recompiles" in inspect.signature(torch.compile).parameters


class CompiledBlocks:
    """Compiles the blocks of models in training, each kind of block once in a process.

    Blocks are of one kind where they differ in the numbers in their tensors alone, whichever design put them there; of
    other sizes of what is inserted, and of other batches, torch makes one more graph, in which these are free. What is
    hooked on a block as a whole runs around the graph. Before a block of a model is run so, its output and gradients
    are held against those that it has without; where they differ, or anything fails, it runs as it is.

    Args:
        tell: Is told, once for each reason, why blocks run as they are.
        backend: What makes the graphs.
    """

    def __init__(self, tell: Callable[[str], object], backend: Backend = "inductor") -> None:
        self._tell, self._backend = tell, backend
        self._graphs: dict[Hashable, Graph | None] = {}
        self._failed, self._told = set[Hashable](), set[str]()

    def of(self, model: nn.Module) -> CompiledModel:
        """A `with` block in which the blocks of a model run so, where gradients are recorded.

        Args:
            model: The model, whose design stays as it is.
        """
        return CompiledModel(model, self)

    def leave(self, reason: str) -> None:
        """Say why something runs as it is, once.

        Args:
            reason: Why.
        """
        if reason not in self._told:
            self._told.add(reason)
            self._tell(reason)

    def graph(self, kind: Kind, call: Call) -> Graph | None:
        """What computes what a block computes; None for itself alone.

        Args:
            kind: The block's.
            call: A call of it.
        """
        if kind.key in self._failed:
            return None
        expected = call.outcome(kind.forward, kind)
        if kind.changed:
            self.leave("a block keeps what another one takes")
            return None
        for sizes in ((), kind.sizes):  # a graph is for all sizes, unless they count as numbers
            key = (kind.key, sizes)
            if key not in self._graphs:
                self._graphs[key] = _made(kind, self._backend, bool(sizes), call, expected)
            if (graph := self._graphs[key]) is not None:
                return graph if self._computes(graph, kind, call, expected) else None
        self.leave("a block uses more than its modules")
        return None

    def _computes(self, graph: Graph, kind: Kind, call: Call, expected: Outcome) -> bool:
        """Whether a graph can be made for a call, and does what the block does."""
        try:
            found = call.outcome(partial(graph, kind.given), kind)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers fail in any way
            self._failed.add(kind.key)
            self.leave(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
            return False
        if not call.alike(expected, found):
            self.leave("a graph computes something else than its block")
            return False
        return True


class CompiledModel:
    """A model whose blocks run by graphs, in its `with` block.

    Args:
        model: The model.
        blocks: Who has the graphs.
    """

    def __init__(self, model: nn.Module, blocks: CompiledBlocks) -> None:
        self._model, self._blocks = model, blocks
        self._runs: list[tuple[nn.Module, CompiledBlock]] | None = None
        self._handles: list[Handle] = []

    def __enter__(self) -> None:
        """From here."""
        if self._runs is None:
            self._runs = list(self._found())
        self._handles = [ForwardOverride(block, run) for block, run in self._runs]

    def __exit__(self, *error: object) -> None:
        """To here."""
        while self._handles:
            self._handles.pop().remove()

    def _found(self) -> Iterator[tuple[nn.Module, CompiledBlock]]:
        for block in family_of(self._model).blocks(self._model):
            if replaced(block):
                self._blocks.leave("a method computes a block in a way of its own")
                continue
            try:
                yield block, CompiledBlock(Kind(block), self._blocks)
            except UnlikeError as reason:
                self._blocks.leave(str(reason))


class CompiledBlock:
    """What stands for a block's `forward`.

    Args:
        kind: The block's.
        blocks: Who has the graphs.
    """

    def __init__(self, kind: Kind, blocks: CompiledBlocks) -> None:
        self._kind, self._blocks = kind, blocks
        self._graphs: dict[Hashable, Graph | None] = {}

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The block's output.

        Args:
            x: Its input.
            args: What else it is given.
            kwargs: As well.
        """
        if torch.is_grad_enabled():
            case = (x.shape, x.dtype, x.requires_grad, torch.is_autocast_enabled(x.device.type))
            if case not in self._graphs:
                self._graphs[case] = self._blocks.graph(self._kind, Call(x, args, kwargs))
            if (graph := self._graphs[case]) is not None:
                return graph(self._kind.given, x, *args, **kwargs)
        made: Tensor = self._kind.forward(x, *args, **kwargs)
        return made


class Graph:
    """What blocks of one kind share: modules without values, and what is compiled of them.

    Args:
        kind: The kind.
        backend: What makes graphs.
        sized: Whether the modules know their sizes; otherwise those of the tensors are theirs.
    """

    def __init__(self, kind: Kind, backend: Backend, sized: bool) -> None:
        roots, elastic = kind.copy()
        self._modules = _Modules(roots)
        for module in () if sized else elastic:
            vars(module).update(size=None, active=None)
        options = {"fallback_random": True} if backend == "inductor" else None  # draws what is drawn without
        compile: Any = torch.compile
        self._call = compile(self.plain, backend=backend, options=options, isolate_recompiles=True)

    def plain(self, tensors: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """What a block computes, without a graph.

        Args:
            tensors: Its parameters and buffers.
            args: Of its `forward`.
            kwargs: As well.
        """
        made: Tensor = torch.func.functional_call(self._modules, dict(tensors), args, kwargs, tie_weights=False)
        return made

    def __call__(self, tensors: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """What a block computes.

        Args:
            tensors: Its parameters and buffers.
            args: Of its `forward`.
            kwargs: As well.
        """
        made: Tensor = self._call(tensors, *args, **kwargs)
        return made


class _Modules(nn.Module):
    """A block, and what is hooked on it."""

    def __init__(self, roots: list[nn.Module]) -> None:
        super().__init__()
        self.roots = nn.ModuleList(roots)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        made: Tensor = self.roots[0].forward(*args, **kwargs)
        return made


def _made(kind: Kind, backend: Backend, sized: bool, call: Call, expected: Outcome) -> Graph | None:
    """A graph for a kind of block; None where its modules by themselves do not compute what a block does."""
    try:
        graph = Graph(kind, backend, sized)
        found = call.outcome(partial(graph.plain, kind.given), kind)
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return None
    return graph if call.alike(expected, found) else None


@dataclass(frozen=True)
class Call:
    """A call of a block.

    Args:
        x: Its input.
        args: What else it is given.
        kwargs: As well.
    """

    x: Tensor
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def outcome(self, forward: Callable[..., Tensor], kind: Kind) -> Outcome:
        """The output and, of a loss, the gradients of the input and of what is trained; nothing is left of it.

        Args:
            forward: What is called.
            kind: The block's.
        """
        x = self.x.detach().requires_grad_(self.x.requires_grad)
        wanted = [tensor for tensor in (x, *kind.tensors.values()) if tensor.requires_grad]
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            y = forward(x, *self.args, **self.kwargs)
            if not y.requires_grad:
                return (y,)
            gradients = torch.autograd.grad(y, wanted, torch.randn_like(y), allow_unused=True, materialize_grads=True)
        return (y.detach(), *gradients)

    @torch.no_grad()
    def alike(self, some: Outcome, others: Outcome) -> bool:
        """Whether two outcomes are the same but for how they are rounded.

        Args:
            some: The one.
            others: The other.
        """
        exact = self.x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(self.x.device.type)
        tolerance = 1e-3 if exact else 5e-2
        pairs = zip(some, others, strict=True)
        return all((a.float() - b.float()).norm() <= tolerance * a.float().norm() + 1e-12 for a, b in pairs)
