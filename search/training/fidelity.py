"""At what price a candidate is measured. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from petlas.errors import UserError


@dataclass(frozen=True)
class Fidelity:
    """How long a candidate is trained, with which seed, and on which part of the task.

    Args:
        epochs: Of the whole training, which the learning rate's schedule is made for.
        seed: Of the initialisation, the order of the images, dropout, and whatever else training draws.
        fold: Which of `folds` is held out, from 0; None for the task's own train and val.
        folds: How many folds train+val is cut into; None without a fold.

    Raises:
        UserError: When the fold is none of the folds.
    """

    epochs: int
    seed: int
    fold: int | None = None
    folds: int | None = None

    def __post_init__(self) -> None:
        if (self.fold is None) != (self.folds is None):
            raise UserError(f"fold and folds stand together, got fold={self.fold} and folds={self.folds}; give both")
        if self.fold is not None and self.folds is not None and not 0 <= self.fold < self.folds:
            raise UserError(f"fold must be in 0..{self.folds - 1}, got fold={self.fold}")

    def __str__(self) -> str:
        """Short enough for a file's name, such as `e100-s0` or `e100-s0-f2of5`."""
        part = "" if self.fold is None else f"-f{self.fold}of{self.folds}"
        return f"e{self.epochs}-s{self.seed}{part}"
