import errno

import pytest
import torch

from petlas.datasets import DataError
from petlas.errors import UserError
from petlas.petl import BackboneError, DesignError
from petlas.search.run_folder import RunError
from petlas.search.runners.blame import is_of_surroundings, told


@pytest.mark.parametrize(
    "error",
    [
        DataError("an image is cut off"),
        BackboneError("the weights are gone"),
        RunError("the supernet diverged"),
        UserError("whatever else the user can mend"),
        OSError(28, "No space left on device"),
        FileNotFoundError("gone"),
        PermissionError("not yours"),
        ConnectionResetError("the shared disk"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_data_weights_and_disk_are_the_surroundings(error: Exception) -> None:
    assert is_of_surroundings(error)


@pytest.mark.parametrize(
    "error",
    [
        DesignError("LoRA needs a size"),
        MemoryError("too large"),
        torch.OutOfMemoryError("CUDA out of memory"),
        ValueError("shapes"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ZeroDivisionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_candidate_does_is_its_own_fault(error: Exception) -> None:
    assert not is_of_surroundings(error)


def test_a_device_that_is_lost_is_the_surroundings() -> None:
    lost = getattr(torch, "AcceleratorError", None)
    if lost is None:
        pytest.skip("this torch has no error of its own for a lost device")
    assert is_of_surroundings(lost.__new__(lost))


def test_the_users_errors_are_told_in_their_own_words_and_others_with_their_kind() -> None:
    assert told(DataError("lists must not be empty")) == "lists must not be empty"
    assert told(MemoryError("too large")) == "MemoryError: too large"


def test_of_a_full_disk_it_is_told_what_helps() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "runs/a/log.txt")
    assert told(error).endswith("'runs/a/log.txt'; free some space there, and repeat the command to go on")
    assert told(OSError(errno.EIO, "Input/output error")) == "OSError: [Errno 5] Input/output error"
