"""The frozen-prefix cache: what the leading blocks make of a task's images, computed once on a node.

Whatever is trained behind them, these blocks compute the same in every epoch of every trial. Their outputs are kept in
files that all processes map, and training goes on from there: see `petlas.petl.prefix`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from petlas.datasets.stores import cache_folder
from petlas.petl import Prefix, Streams, family_of, prefix_of, run_prefix, shape_of
from petlas.search.training.batches import ImageBatches, Inputs
from petlas.search.training.numerics import precision
from petlas.search.training.stream_files import StreamFiles

log = logging.getLogger("petlas")

_FORMAT = 1  # part of every key: raise it when what is kept changes


class PrefixCache:
    """The streams of a task's images, kept on the node for all trials that leave the same leading blocks alone.

    Args:
        data: All images that are learned from, in the batches of a training.
        limit: Bytes of all files on the node.
        stamp: What determines the streams, besides machine and batches: backbone, inputs, images.
        autocast: The precision.
    """

    def __init__(self, data: ImageBatches, limit: int, stamp: Mapping[str, Any], autocast: torch.dtype | None) -> None:
        self._data, self._limit, self._stamp, self._autocast = data, limit, stamp, autocast
        self._verdicts: dict[str, Verdicts] = {}
        self._too_large: set[tuple[int, ...]] = set()
        self._told = False

    def open(self, model: nn.Module) -> KnownStreams | None:
        """The streams that stand in for the leading blocks of a model; None where there are none, or no room.

        Args:
            model: A backbone with a design, on its device.
        """
        prefix = prefix_of(model)
        why = family_of(model).why_whole(model)
        if why is not None and not self._told:
            self._told = True
            log.info("prefix cache: off, as %s does not run in parts: %s", shape_of(model).name, why)
        if prefix is None or prefix.streams in self._too_large:
            return None
        key = self._key()
        files = StreamFiles(cache_folder() / "prefix", key, len(self._data), self._limit)
        try:
            known = files.load_all(prefix.streams) or self._build(files, prefix, model)
        except OSError as error:
            log.warning("prefix cache: off for this trial, as %s cannot be written (%s)", files.folder, error)
            return None
        if known is None:
            return None
        verdicts = self._verdicts.setdefault(key, Verdicts())
        return KnownStreams(self._data, model, prefix, known, verdicts, self._autocast)

    def _key(self) -> str:
        """Everything that determines the digits of a stream."""
        device = self._data.device
        here = {
            "format": _FORMAT,
            "batch": self._data.size,
            "autocast": str(self._autocast),
            "node": platform.node(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "unit": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "products": torch.get_float32_matmul_precision(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
        return hashlib.sha256(json.dumps({**self._stamp, **here}, sort_keys=True).encode()).hexdigest()[:32]

    def _build(self, files: StreamFiles, prefix: Prefix, model: nn.Module) -> dict[int, Tensor] | None:
        """Compute and keep the streams that are missing, from the deepest one that is kept; None if they do not fit."""
        with files.building():
            missing = tuple(number for number in prefix.streams if files.load(number) is None)
            if missing:
                deeper = ((n, kept) for n in reversed(range(missing[0])) if (kept := files.load(n)) is not None)
                start, source = next(deeper, (None, None))
                if not self._fits(files, prefix, model):
                    return None
                with ExitStack() as stack:
                    writers: dict[int, Callable[[Tensor], object]] = {}
                    for first in range(0, len(self._data), self._data.size):
                        # All of one size, as in training: a product may depend on how many rows it has.
                        pick = torch.arange(first, first + self._data.size) % len(self._data)
                        x = self._data.images(pick) if source is None else source[pick].to(self._data.device)
                        known = self._run(model, x, replace(prefix, streams=missing), start)
                        for number in missing:
                            if number not in writers:
                                writers[number] = stack.enter_context(files.writing(number, known[number]))
                            writers[number](known[number][: len(self._data) - first])
        return files.load_all(prefix.streams)

    def _fits(self, files: StreamFiles, prefix: Prefix, model: nn.Module) -> bool:
        (stream, *_) = self._run(model, self._data.images(slice(0, 1)), prefix, None).values()
        each = stream.nbytes * len(self._data)
        if files.make_room(prefix.streams, each):
            return True
        self._too_large.add(prefix.streams)
        log.info(
            "prefix cache: off for designs that leave %d blocks alone: %.2f GiB, and resources.cache_gb=%.3g",
            prefix.blocks,
            each * len(prefix.streams) / 2**30,
            self._limit / 2**30,
        )
        return False

    def _run(self, model: nn.Module, x: Tensor, prefix: Prefix, start: int | None) -> dict[int, Tensor]:
        with precision(x.device, self._autocast):
            return run_prefix(model, x, prefix, start)


class Verdicts:
    """Up to which depth batches of which size have the same digits, however their images were put together."""

    def __init__(self) -> None:
        self._same: dict[int, int] = {}
        self._other: dict[int, int] = {}

    def of(self, size: int, blocks: int) -> bool | None:
        """Whether they have; None where nobody has looked.

        Args:
            size: Images in a batch.
            blocks: How deep.
        """
        if blocks <= self._same.get(size, 0):
            return True
        return False if blocks >= self._other.get(size, math.inf) else None

    def found(self, size: int, blocks: int, same: bool) -> None:
        """Remember it.

        Args:
            size: Images in a batch.
            blocks: How deep.
            same: What was found.
        """
        if same:
            self._same[size] = max(blocks, self._same.get(size, 0))
        else:
            self._other[size] = min(blocks, self._other.get(size, blocks))


class KnownStreams:
    """What stands in for the images of a task, for one model.

    In the model's own precision training with it is the same to the digit: the first batch of each size is computed in
    both ways, and sizes at which a digit differs, as where a product depends on the number of its rows, are computed
    from the images. Under autocast a stream is what its images give in a batch of training's size, whatever they are
    used in: rounding hides most differences, so that one batch says nothing of the next.

    Args:
        data: All images that are learned from.
        model: The model.
        prefix: Its prefix.
        streams: Those of all images, in the order of the data.
        verdicts: What is known of sizes of batches.
        autocast: The precision.
    """

    def __init__(
        self,
        data: ImageBatches,
        model: nn.Module,
        prefix: Prefix,
        streams: Mapping[int, Tensor],
        verdicts: Verdicts,
        autocast: torch.dtype | None,
    ) -> None:
        self.prefix, self._data, self._model, self._verdicts, self._autocast = prefix, data, model, verdicts, autocast
        self._streams = {number: stream.to(data.device) for number, stream in streams.items()}
        numbers = data.numbers(slice(None))
        self._rows = torch.full((int(numbers.max()) + 1,), -1, device=data.device)
        self._rows[numbers] = torch.arange(len(numbers), device=data.device)

    def of(self, data: ImageBatches, pick: Tensor | slice) -> Streams | None:
        """The streams of some images; None where they must be computed.

        Args:
            data: Images of the same store, all of them among those that are learned from.
            pick: Which of them.
        """
        numbers, blocks = data.numbers(pick), self.prefix.blocks
        same = self._verdicts.of(len(numbers), blocks) if self._autocast is None else True
        if same is False:
            return None
        rows = self._rows[numbers]
        known = {number: stream[rows] for number, stream in self._streams.items()}
        if same is None:
            with precision(data.device, self._autocast):
                computed = run_prefix(self._model, data.images(pick), self.prefix)
            same = all(torch.equal(known[number], computed[number]) for number in known)
            self._verdicts.found(len(numbers), blocks, same)
            if not same:
                log.info("prefix cache: off for batches of %d, whose digits depend on the whole batch", len(numbers))
        return Streams(self.prefix, known, data.pixels) if same else None


class KnownBatches:
    """Batches of images with what stands in for them in their place.

    Args:
        data: The images, all of them among those that are learned from.
        known: What stands in for them.
    """

    def __init__(self, data: ImageBatches, known: KnownStreams) -> None:
        self._data, self._known = data, known

    def __len__(self) -> int:
        """Number of images."""
        return len(self._data)

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        """Batches in order."""
        return map(self.batch, self._data.picks)

    def batch(self, pick: Tensor | slice) -> tuple[Inputs, Tensor]:
        """What stands in for images, or images (B, 3, S, S), and targets (B,) or (B, K)."""
        streams = self._known.of(self._data, pick)
        return self._data.images(pick) if streams is None else streams, self._data.targets(pick)
