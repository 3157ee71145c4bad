"""Files that readers take lists from, told in one line where they are damaged: JSON, MATLAB's and text tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from petlas.datasets.errors import DataError, shown
from petlas.datasets.lists import read_lines

Pairs = list[tuple[str, Any]]


def read_json(file: Path) -> Any:
    """What a JSON file holds; objects as lists of pairs, so that a key that stands there twice is seen.

    Raises:
        DataError: When it cannot be read.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=Object)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{shown(file)}: the file must be readable JSON ({error}); fetch it again") from error


class Object(Pairs):
    """A JSON object as its pairs."""


def read_mat(file: Path, *variables: str) -> list[Any]:
    """Variables of a MATLAB file (version 5, which holds data only), with dimensions of one left out.

    Args:
        file: The file.
        variables: Their names.

    Raises:
        DataError: When it cannot be read or lacks one.
    """
    from scipy.io import loadmat  # slow to import, and needed here only

    try:
        held = loadmat(str(file), squeeze_me=True, struct_as_record=True)
        return [held[name] for name in variables]
    except KeyError as error:
        raise DataError(f"{shown(file)}: it must hold {', '.join(variables)}, and {error} is missing") from error
    except Exception as error:  # scipy raises almost anything on broken data
        raise DataError(
            f"{shown(file)}: the file must be readable MATLAB data ({type(error).__name__}: {error}); fetch it again"
        ) from error


def read_columns(file: Path, form: str) -> list[tuple[str, str]]:
    """The lines of a text as what stands before and behind the first blank.

    Args:
        file: The text.
        form: How an error describes a line.

    Raises:
        DataError: When it cannot be read or a line has no two parts.
    """
    rows = []
    for number, line in enumerate(read_lines(file, "the list"), 1):
        first, _, rest = line.strip().partition(" ")
        if not first or not rest.strip():
            raise DataError(f"{shown(file)} line {number}: expected `{form}`, got {shown(line)!r}; correct the line")
        rows.append((first, rest.strip()))
    return rows


def check_lengths(file: Path, **columns: Sequence[Any]) -> None:
    """What belongs together is of one length.

    Args:
        file: Where it comes from.
        columns: By name.

    Raises:
        DataError: When the lengths differ.
    """
    if len({len(values) for values in columns.values()}) > 1:
        told = ", ".join(f"{len(values)} {name}" for name, values in columns.items())
        raise DataError(f"{shown(file)}: there must be as many of each, got {told}; fetch the file again")
