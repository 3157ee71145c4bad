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
        repeat: How often the images were dealt to other folds before; 0 for the first deal.

    Raises:
        UserError: When the fold is none of the folds.
    """

    epochs: int
    seed: int
    fold: int | None = None
    folds: int | None = None
    repeat: int = 0

    def __post_init__(self) -> None:
        if (self.fold is None) != (self.folds is None):
            raise UserError(f"fold and folds stand together, got fold={self.fold} and folds={self.folds}; give both")
        if self.fold is not None and self.folds is not None and not 0 <= self.fold < self.folds:
            raise UserError(f"fold must be in 0..{self.folds - 1}, got fold={self.fold}")
        if self.repeat < 0 or (self.repeat and self.fold is None):
            raise UserError(f"repeat must be 0 or more, and 0 without a fold, got repeat={self.repeat}")

    def __str__(self) -> str:
        """Short enough for a file's name, such as `e100-s0`, `e100-s0-f2of5` or `e100-s1-f2of5-r1`."""
        part = "" if self.fold is None else f"-f{self.fold}of{self.folds}"
        return f"e{self.epochs}-s{self.seed}{part}" + (f"-r{self.repeat}" if self.repeat else "")
