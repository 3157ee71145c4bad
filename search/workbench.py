"""A run's configuration, resolved: whatever needs the task, the backbone or the space is handed this."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import petlas
from petlas.datasets import Task, View, check_overlap, open_store, open_task
from petlas.petl import (
    BackboneShape,
    CompiledBlocks,
    Design,
    InputConfig,
    count_params,
    family_of,
    fingerprint,
    input_config,
    load_backbone,
    shape_by_name,
    usual_crop,
)
from petlas.petl.copies import copied
from petlas.search.config import RunConfig, TrainConfig, space_of
from petlas.search.cost_model import LIMITS, CostModel, cost_model
from petlas.search.objectives import Objective, check_metric, objective_of
from petlas.search.run_files import Files, Folder
from petlas.search.supplies import BACKBONE, COSTS, TASK, images_of
from petlas.search.training.augment import AugmentedBatches
from petlas.search.training.batches import EVAL_BATCH, Batches, ImageBatches, on_device
from petlas.search.training.compiling import compiled_blocks
from petlas.search.training.fidelity import Fidelity
from petlas.search.training.numerics import autocast_dtype, deterministic, pick_device
from petlas.search.training.options import check_options
from petlas.search.training.prefix import KnownBatches, PrefixCache
from petlas.spaces import Budget, Limit, Space

log = logging.getLogger("petlas")

FOLDS = 5
"""Of train and val, where `protocol.folds` says nothing and a strategy needs them."""

SERVED = 4
"""How many runs a process serves without making anything twice; of more, the one that waited longest is dropped."""


class Workbench:
    """What a run's configuration resolves to, each thing once, when it is first asked for.

    Args:
        config: The run's configuration.
        supplied: What it was handed by another process, by the names of `petlas.search.supplies`; whatever is not
            there is opened on this machine.
    """

    def __init__(self, config: RunConfig, supplied: Mapping[str, Any] | None = None) -> None:
        self.config, self._supplied = config, supplied or {}
        self.files: Files = Folder(config.folder)  # of the run folder, as this process reads and writes them
        self.pack: int | None = None  # as it was measured for `resources.pack=auto`
        self._prints: dict[View, str] = {}
        self._stores: dict[str, Any] = {}
        self._folds: dict[tuple[int, int], tuple[tuple[View, View], ...]] = {}

    @cached_property
    def task(self) -> Task:
        """What is learned; what is odd about its data is told in the log, once.

        Raises:
            DataError: When the data is at fault.
        """
        if TASK in self._supplied:
            return cast(Task, self._supplied[TASK])
        config = self.config.task
        task = open_task(
            config.name,
            root=config.root,
            split_seed=config.split_seed,
            value_range=_pair(config.value_range),
            shots=config.shots,
            shot_seed=config.shot_seed,
            download=config.download,
            start=self.config.paths_from,
        )
        self._tell(task.name, task.notes)
        return task

    @staticmethod
    def _tell(task: str, notes: Iterable[str]) -> None:
        for note in notes:
            log.warning("task %s: %s", task, note)

    @cached_property
    def objective(self) -> Objective:
        """What the task's kind asks for, with the run's metric.

        Raises:
            ObjectiveError: When the kind of task has no such metric.
        """
        return objective_of(self.task, self.config.task.metric)

    @cached_property
    def shape(self) -> BackboneShape:
        """The backbone's sizes, without its weights.

        Raises:
            BackboneError: When the backbone is not known.
        """
        return shape_by_name(self.config.backbone.name, self.config.backbone.img_size)

    @cached_property
    def space(self) -> Space:
        """The candidates that may be chosen.

        Raises:
            SpaceError: When the space cannot be built for this backbone.
        """
        shape = self.shape
        return Space.from_dict(space_of(self.config), shape.depth, backbone=shape.name, stages=shape.widths)

    @cached_property
    def budget(self) -> Budget:
        """The hard budget; the costs of designs are remembered."""
        most = self.config.budget.model_dump()
        further = tuple(
            Limit(name, most[name], lru_cache(maxsize=4096)(pick(self.costs)))
            for name, pick in LIMITS.items()
            if most[name] is not None
        )
        return Budget(self.config.budget.params, self._params, further)

    @cached_property
    def costs(self) -> CostModel:
        """What the training steps of designs cost: as this process was told, or steps of some designs are measured."""
        return cost_model(self, self._supplied.get(COSTS))

    @property
    def counts_costs(self) -> bool:
        """Whether the run limits or trades what steps cost."""
        most, traded = self.config.budget.model_dump(), self.config.search.objectives
        return any(most[name] is not None or name in traded for name in LIMITS)

    @cached_property
    def _params(self) -> Callable[[Design], int]:
        return lru_cache(maxsize=4096)(lambda design: count_params(design, self.shape))

    def cost(self, design: Design) -> int:
        """The trainable parameters of a design, head excluded.

        Raises:
            DesignError: When the design cannot be inserted into this backbone.
        """
        return self._params(design)

    def both_costs(self, design: Design) -> tuple[int, float | None]:
        """A design's trainable parameters, and what the run trades against its metric where that is another cost.

        Raises:
            DesignError: When the design cannot be inserted into this backbone.
        """
        traded = next((LIMITS[name] for name in self.config.search.objectives if name in LIMITS), None)
        return self.cost(design), None if traded is None else traded(self.costs)(design)

    @cached_property
    def device(self) -> torch.device:
        """Where models are: on a GPU only if the run's work is given one."""
        return pick_device(self.config.resources.gpus)

    @cached_property
    def autocast(self) -> torch.dtype | None:
        """The precision that is computed in; None for the model's own."""
        return autocast_dtype(self.config.train, self.device)

    @cached_property
    def compiled(self) -> CompiledBlocks | None:
        """What compiles the blocks of all trainings in this process; None where they run as they are."""
        return compiled_blocks(self.config.train, self.device)

    @cached_property
    def inputs(self) -> InputConfig:
        """What the backbone expects of its images: as its weights were pretrained, or as the configuration says."""
        own = self.config.backbone
        given: dict[str, Any] = {"mean": own.mean, "std": own.std, "interpolation": own.interpolation}
        given["crop"] = usual_crop(self.pristine) if own.crop == "auto" else own.crop
        plain = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value}
        return replace(input_config(self.pristine), **plain)  # type: ignore[arg-type]

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the backbone's pretrained weights, without what is computed anew for an image size."""
        recomputes, state = family_of(self.pristine).recomputes, self.pristine.state_dict()
        return fingerprint({name: value for name, value in state.items() if not recomputes(name)})

    @cached_property
    def pristine(self) -> nn.Module:
        """The backbone as its weights were read, without a head: of all who ask for it, so it is not to be changed.

        Raises:
            BackboneError: When the weights cannot be had, or do not fit.
        """
        if BACKBONE in self._supplied:
            return cast(nn.Module, self._supplied[BACKBONE].unpacked())
        own, file = self.config.backbone, self.checkpoint
        return _read_backbone(own.name, file, _state(file), own.img_size, self.config.train.drop_path)

    @property
    def checkpoint(self) -> str | None:
        """The file of the backbone's weights; None for what its name stands for."""
        own = self.config.backbone.checkpoint
        return None if own is None else self.config.locate(own)

    def with_space(self, space: dict[str, Any]) -> Workbench:
        """A workbench of the same run with another space; task, weights and images are shared.

        Args:
            space: As its YAML reads.
        """
        other = copy.copy(self)
        other.config = self.config.model_copy(update={"space": space})
        vars(other).pop("space", None)  # resolved anew; the budget is of designs, whatever the space
        return other

    def backbone(self) -> nn.Module:
        """A fresh copy of the backbone, without a head; its weights are read once in a process.

        Raises:
            BackboneError: When the weights cannot be had, or do not fit.
        """
        return copied(self.pristine)

    @cached_property
    def _images(self) -> Tensor:
        """The decoded images of train and val, on the device."""
        return on_device(self._store(self.task.views["trainval"]), self.device)

    def _store(self, view: View) -> Any:
        name = images_of("test" if view.source is self.task.views["test"].source else "trainval")
        if name not in self._stores:
            handed = self._supplied.get(name)
            own = self.inputs
            if handed is None:
                handed = open_store(view.source, own.size, interpolation=own.interpolation, crop=own.crop)
            self._stores[name] = handed
        return self._stores[name]

    def decoded(self, view: View) -> npt.NDArray[np.uint8]:
        """(N, S, S, 3) the decoded images of a view's source, as a plain array: a map would be copied on its way."""
        return np.asarray(self._store(view))

    def batches(self, view: View, size: int = EVAL_BATCH) -> ImageBatches:
        """A view's images and targets, decoded once, normalised, on the device.

        Args:
            view: Of the run's task.
            size: Of the batches.

        Raises:
            DataError: When an image cannot be read.
        """
        learned = view.source is self.task.views["trainval"].source
        images = self._images if learned else self._store(view)
        return ImageBatches(images, view.targets, self.inputs, self.device, size, view.indices)

    def known_batches(self, model: nn.Module, view: View, size: int = EVAL_BATCH) -> Batches:
        """A view's batches for a model with a design, with what is known of its leading blocks in the images' place.

        Args:
            model: The model, on its device.
            view: Of the run's task, with images that are learned from.
            size: Of the batches.

        Raises:
            DataError: When an image cannot be read.
        """
        data = self.batches(view, size)
        with deterministic(self.config.train.deterministic):
            known = self._prefixes.open(model) if self._prefixes else None
        return KnownBatches(data, known) if known else data

    def training_batches(self, model: nn.Module, view: View, train: TrainConfig) -> Batches | AugmentedBatches:
        """A view's batches to train a model with a design on: augmented, or with what is known of its leading blocks.

        Args:
            model: The model, on its device.
            view: Of the run's task, with images that are learned from.
            train: The settings of the training.

        Raises:
            DataError: When an image cannot be read.
        """
        if train.augments:
            return AugmentedBatches(self.batches(view, train.batch_size), train)
        return self.known_batches(model, view, train.batch_size)

    @cached_property
    def _prefixes(self) -> PrefixCache | None:
        """What is kept of the leading blocks; None where nothing is to be kept."""
        limit, learned = int(self.config.resources.cache_gb * 2**30), self.task.views["trainval"]
        if not limit:
            return None
        state, family = self.pristine.state_dict(), family_of(self.pristine)
        stamp = {
            "backbone": self.shape.name,
            "weights": self.weights,
            "recomputed": fingerprint({name: value for name, value in state.items() if family.recomputes(name)}),
            "input": asdict(self.inputs),
            "images": learned.source.fingerprint(learned.indices),
        }
        return PrefixCache(self.batches(learned, self.config.train.batch_size), limit, stamp, self.autocast)

    def views(self, fidelity: Fidelity, train: str = "train", val: str = "val") -> tuple[View, View]:
        """What is learned from, and what is measured on, at a fidelity.

        Args:
            fidelity: Its fold comes before the names; all runs of a task see the same folds, and each repeat others.
            train: The name of the view that is learned from without a fold.
            val: That of the view that is measured on.
        """
        if fidelity.fold is None or fidelity.folds is None:
            return self.task.views[train], self.task.views[val]
        deal = fidelity.folds, fidelity.repeat
        if deal not in self._folds:
            self._folds[deal] = self.task.folds(fidelity.folds, self.config.task.split_seed, fidelity.repeat)
        return self._folds[deal][fidelity.fold]

    @cached_property
    def folds(self) -> int:
        """How many folds candidates are compared on: `protocol.folds`, or as many as every class has images."""
        wanted = self.config.protocol.folds or FOLDS
        most = self.task.most_folds
        if wanted > most:
            self._tell(self.task.name, [f"{most} folds, not {wanted}: a class has no more images to learn from"])
        return min(wanted, most)

    def fingerprint(self, view: View) -> str:
        """Fingerprint of a view's images and targets, remembered."""
        if view not in self._prints:
            self._prints[view] = view.fingerprint()
        return self._prints[view]

    @property
    def about_task(self) -> dict[str, str]:
        """What an adapter file keeps of the data: name, fingerprint, and what is black and white in deep images."""
        about = {"name": self.task.name, "fingerprint": self.task.fingerprint}
        value_range = getattr(self.task.views["train"].source, "value_range", None)
        return about if value_range is None else about | {"value_range": json.dumps(value_range)}

    def stamp(self, **more: Any) -> dict[str, Any]:
        """Everything of the run that determines the numbers of a training, as plain data.

        What is learned from and the seed belong to it too, and are the caller's.

        Args:
            more: What the caller adds; it comes before the run's own entries.
        """
        return {
            "version": petlas.__version__,
            "backbone": self.shape.name,
            "weights": self.weights,
            "input": asdict(self.inputs),
            "objective": self.objective.kind,
            "classes": self.task.num_classes,
            "train": self.config.train.model_dump(mode="json"),
            "autocast": str(self.autocast),
        } | more

    def check_space(self) -> None:
        """Refuse a space with a method that does not suit the backbone, or with an option that its method has not.

        Raises:
            DesignError: Of the method.
        """
        for design in (self.space.largest, *check_options(self.space)):
            self.cost(design)

    def check(self, test: bool = False) -> None:
        """Let everything that can be wrong with the run's surroundings be told now, and not by a trial.

        The space is held against the backbone and the budget, the weights are read, all images for training are
        decoded, and no image may be both learned from and tested on.

        Args:
            test: Whether the test images are decoded, too; nothing looks at them.

        Raises:
            UserError: Of the part that is at fault.
        """
        self.check_space()
        self.space.check_budget(self.budget)
        check_metric(self.objective, self.task)
        self._store(self.task.views["trainval"])  # not `_images`: where others train, the GPU is theirs
        _ = self.weights
        self._tell(self.task.name, check_overlap(self.task))
        if test:
            self._store(self.task.views["test"])


def _pair(values: list[float] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])


@lru_cache(maxsize=SERVED)
def _read_backbone(
    name: str, checkpoint: str | None, state: tuple[int, ...], img_size: int | None, drop_path: float
) -> nn.Module:
    """The backbone; `state` tells a file that was replaced."""
    return load_backbone(name, checkpoint, img_size=img_size, drop_path_rate=drop_path)


def _state(checkpoint: str | None) -> tuple[int, ...]:
    """What of a file changes when it is replaced."""
    try:
        found = Path(checkpoint).stat() if checkpoint else None
    except OSError:
        found = None  # `load_backbone` says what is wrong
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found else ()


@lru_cache(maxsize=SERVED)
def shared_workbench(config: str, supplied: Mapping[str, Any] | None = None) -> Workbench:
    """The workbench of a run, made once in a process.

    Args:
        config: The run's JSON.
        supplied: What the workbench is handed; it can be hashed.
    """
    return Workbench(RunConfig.model_validate_json(config), supplied)
