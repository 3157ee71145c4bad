"""Whose fault it is that a trial failed: the candidate's, or its surroundings'."""

from __future__ import annotations

import torch

from petlas.errors import UserError
from petlas.petl.design import DesignError


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
    """An error in one line: the user's in its own words, others with their kind."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
