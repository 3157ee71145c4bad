"""Which candidate is the best, by what was measured and by nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from petlas.search.selection.evidence import Evidence
from petlas.search.selection.noise import Known, believe


def choose(evidence: Evidence, params: Mapping[str, int], maximize: bool = True) -> str | None:
    """The best candidate.

    Where candidates were measured on folds, they alone are compared, by their pooled values: a few hundred images of
    one split can't rank designs. Else the values on the selection split are compared. Nothing is chosen by a training
    of fewer epochs than a whole one has. Of equal ones the one with the fewest parameters is taken, then the first.

    Args:
        evidence: What was measured, in any order.
        params: The trainable parameters of each candidate, in the order in which they were tried; others are left out.
        maximize: Whether a higher value is better.

    Returns:
        Its key; None where no candidate was trained whole.
    """
    pooled = {key: found.value for key in params if (found := evidence.pooled(key)) is not None}
    values = pooled or {key: evidence.values[key] for key in params if key in evidence.values}
    sign = 1 if maximize else -1
    return max(values, key=lambda key: (sign * values[key], -params[key]), default=None)  # the first of equal ones


def choose_by_belief(
    evidence: Evidence, params: Mapping[str, int], known: Mapping[str, Known], maximize: bool = True
) -> str | None:
    """The best candidate where they were measured unevenly, each on some folds: by what is believed of it.

    What fewer epochs told counts for what is believed, but only candidates that were trained whole can be chosen.

    Args:
        evidence: What was measured, in any order.
        params: The trainable parameters of each candidate, in the order in which they were tried; others are left out.
        known: What was known of each candidate before it was measured, by its key.
        maximize: Whether a higher value is better.

    Returns:
        Its key; None where no candidate was trained whole on a fold.
    """
    partly = {key: count for key, count in params.items() if key in evidence.partly}
    return believe(evidence, known, maximize=maximize).ranked(partly, maximize)[0] if partly else None
