"""One candidate in training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from petlas.errors import UserError
from petlas.petl import Adapters, fingerprint, graphs_kept, prepare, tuning_of
from petlas.petl.methods import METHODS
from petlas.search.config import HEAD, LR_FACTOR, OPTION_SETTINGS, SETTINGS, TrainConfig, option_of
from petlas.search.run_files import Files
from petlas.search.run_folder import CHECKPOINTS
from petlas.search.selection.bits import MOST
from petlas.search.training.augment import Targets
from petlas.search.training.batches import Inputs
from petlas.search.training.evaluation import Right, evaluate, nothing
from petlas.search.training.fidelity import Fidelity
from petlas.search.training.learner import Learner
from petlas.search.training.numerics import deterministic, full_precision
from petlas.search.training.options import design_of_training
from petlas.search.training.work import EpochResult
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate


class TrainingRun(Learner):
    """One candidate in training. The same seed gives the same numbers, in any process with as many threads.

    Args:
        bench: The run's workbench.
        candidate: What is inserted into the backbone, and the settings that are its own.
        fidelity: For how long, with which seed, and on which fold.
        train_view: The view that is learned from; with a fold, the fold's.
        val_view: The view that `epoch` measures on; None for no measurement (NaN). With a fold, what it holds out.
        initial: Tuned values to start from, head included, as `tuned_state_dict` names them.
        files: Where the training is kept, to be taken up again; None for nowhere.
        host: Designs on the run's backbone, which this one joins; None for a backbone of its own.
        name: What it is called there.

    Raises:
        UserError: When the candidate has a setting that training does not know.
        DesignError: When the design cannot be inserted.
    """

    def __init__(
        self,
        bench: Workbench,
        candidate: Candidate,
        fidelity: Fidelity,
        train_view: str = "train",
        val_view: str | None = "val",
        initial: Mapping[str, Tensor] | None = None,
        files: Files | None = None,
        host: Adapters | None = None,
        name: str = "own",
    ) -> None:
        self._start = time.perf_counter()
        self.parts = 1
        """In how many parts the gradients of a batch are added up."""
        self.bench, self.candidate, self.fidelity = bench, candidate, fidelity
        train, objective = settings_of(bench.config.train, candidate, fidelity.epochs), bench.objective
        learned, held_out = bench.views(fidelity, train_view, val_view or "val")
        compiled = bench.compiled if host is None else None  # in a pack, blocks serve several designs
        host = Adapters(bench.backbone().to(bench.device)) if host is None else host  # an empty one is false
        torch.manual_seed(fidelity.seed)  # only here: reading the backbone for the first time draws random numbers
        with graphs_kept():
            model = host.add(name, design_of_training(candidate), objective.outputs(bench.task.num_classes))
        if initial is None:
            sample = learned.sample(len(learned), fidelity.seed)  # some methods look at the first batches only
            with deterministic(train.deterministic):
                prepare(model, bench.batches(sample, train.batch_size), objective.loss)
        else:
            tuning_of(model).load_state_dict(dict(initial))  # with the entries and channels that were chosen for it
        stamp = bench.stamp(
            candidate=candidate.to_dict(),
            fidelity=str(fidelity),
            train=train.model_dump(mode="json"),
            data=bench.fingerprint(learned),
            initial=None if initial is None else fingerprint(dict(initial)),
        )
        file = files.file(checkpoint_name(candidate, fidelity, train_view)) if files else None
        data = bench.training_batches(model, learned, train)
        super().__init__(model, data, objective, train, fidelity.seed, file, stamp, compiled)
        self.val_data = None if val_view is None else bench.known_batches(model, held_out)
        self._targets = held_out.targets
        self.unmeasured = self.progress.epochs > 0 and self.val_data is not None
        """Whether it was taken up where nobody has measured it."""

    @property
    def images(self) -> int:
        """How many images `epoch` measures on."""
        return 0 if self.val_data is None else len(self.val_data)

    def epoch(self) -> EpochResult:
        """Train for one epoch and measure; a loss that is not finite gives NaN and ends the run.

        A training that was taken up first measures where it stands: it may have been cut off before its last epoch
        was measured, written down, or looked at.
        """
        if not self.unmeasured:
            self.train_epoch()
        return self.measured()

    def measured(self) -> EpochResult:
        """Measure where the training stands."""
        self.unmeasured = False
        val, right = math.nan, Right(self.objective, self._targets)
        if self.val_data is not None and not self.diverged:
            ended = self.finished and self.images <= MOST
            with deterministic(self.train.deterministic):
                keep = right if ended else nothing
                val = evaluate(self.model, self.val_data, self.objective, self.autocast, keep)
        return EpochResult(*self.progress, val, time.perf_counter() - self._start, self.parts, right.packed())

    def accumulate(self, images: Inputs, targets: Targets) -> Tensor:
        """The gradients of the objective's loss; of half as many images at a time where memory runs out.

        The gradients of parts add up to those of the batch, up to rounding: what draws random numbers draws others.
        What stands in for images, and what is mixed, stays whole.

        Args:
            images: (B, 3, S, S), or what stands in for them.
            targets: (B,) or (B, K), or mixed.

        Raises:
            torch.OutOfMemoryError: When there is no room for a single image.
        """
        while True:
            try:
                if self.parts > 1 and isinstance(images, Tensor) and isinstance(targets, Tensor):
                    return self._in_parts(images, targets, min(self.parts, len(images)))
                return self.gradients(images, targets)
            except torch.OutOfMemoryError:
                divisible = isinstance(images, Tensor) and isinstance(targets, Tensor)
                if self.parts >= len(targets) or not divisible:
                    raise
            self.parts *= 2
            for parameter in self.parameters:
                parameter.grad = None  # a step begins with none
            torch.cuda.empty_cache()

    def _in_parts(self, images: Tensor, targets: Tensor, parts: int) -> Tensor:
        total = torch.zeros((), device=self.device)
        for some, labels in zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True):
            loss = self.loss(self.forward(some), labels) * (len(some) / len(images))
            loss.backward()
            total += loss.detach()
        return total

    def test(self, keep: Callable[[Tensor], None] = lambda logits: None) -> float:
        """The metric on the locked test view, in full precision, as the result is used by whoever loads it.

        Called once, after selection, when the training is over.

        Args:
            keep: Is given the logits (B, K) of each batch, in the view's order.
        """
        data = self.bench.batches(self.bench.task.views["test"])
        with full_precision(), deterministic(self.train.deterministic):
            return evaluate(self.model, data, self.objective, keep=keep)


def checkpoint_name(candidate: Candidate, fidelity: Fidelity, train_view: str = "train") -> str:
    """Where in a run folder a training is kept.

    Args:
        candidate: What is trained.
        fidelity: For how long, with which seed, and on which fold.
        train_view: The view that is learned from without a fold.
    """
    return f"{CHECKPOINTS}/{candidate.key}-{train_view}-{fidelity}.safetensors"


def settings_of(train: TrainConfig, candidate: Candidate, epochs: int) -> TrainConfig:
    """The settings of a candidate's training: the run's, with the candidate's own in their places.

    Args:
        train: The run's.
        candidate: Whose settings come first.
        epochs: Of the whole training.

    Raises:
        UserError: When the candidate has a setting that is none of SETTINGS, nor `lr.` and the name of a method, nor an
            option of one.
    """
    own = {name: value for name, value in candidate.settings if option_of(name) is None}  # others are of the design
    factors = {name.removeprefix(LR_FACTOR): own.pop(name) for name in list(own) if name.startswith(LR_FACTOR)}
    unknown = sorted(set(own).difference(SETTINGS))
    unknown += [f"{LR_FACTOR}{name}" for name in factors if name not in (*METHODS, HEAD)]
    unknown += [name for name, _ in candidate.settings if (found := option_of(name)) and found[1] not in METHODS]
    if unknown:
        known = ", ".join((*(f"{option}.METHOD" for option in OPTION_SETTINGS), f"{LR_FACTOR}METHOD", *SETTINGS))
        raise UserError(f"a candidate's settings may be {known}, got {', '.join(unknown)}")
    warmup = train.warmup_epochs if epochs == train.epochs else int(train.warmup_epochs * epochs / train.epochs)
    changed = own | {"epochs": epochs, "warmup_epochs": warmup, "lr_factors": train.lr_factors | factors}
    return train.model_copy(update=changed)
