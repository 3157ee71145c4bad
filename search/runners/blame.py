"""Whose fault it is that a trial failed: the candidate's, or its surroundings'."""

from __future__ import annotations

import errno

import torch

from petlas.errors import UserError
from petlas.petl.design import DesignError

_HELPS = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or have the quota raised",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EMFILE: "allow more open files (ulimit -n)",
}


def is_of_surroundings(error: Exception) -> bool:
    """Whether no candidate is to blame: the data, the weights, the disk or the device failed.

    A candidate that does not fit the backbone, diverges or needs more memory than there is fails by its own fault.
    """
    if isinstance(error, UserError):
        return not isinstance(error, DesignError)
    lost = getattr(torch, "AcceleratorError", ())  # torch 2.6 has none
    return isinstance(error, OSError) or (isinstance(error, lost) and not isinstance(error, torch.OutOfMemoryError))


def starved(error: Exception) -> bool:
    """Whether the memory of a GPU did not suffice: a larger share of one may."""
    return isinstance(error, torch.OutOfMemoryError)


def blame(error: Exception) -> dict[str, bool]:
    """Both, by name, as they travel from a worker to the driver."""
    return {"fault": is_of_surroundings(error), "starved": starved(error)}


def told(error: Exception) -> str:
    """An error in one line: the user's in its own words, others with their kind, and what helps where that is known."""
    if isinstance(error, UserError):
        return str(error)
    helps = _HELPS.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {error}" + (f"; {helps}, and repeat the command to go on" if helps else "")
