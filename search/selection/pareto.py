"""Candidates that no other beats in value and parameters."""

from __future__ import annotations

from collections.abc import Mapping

from petlas.search.selection.evidence import Evidence


def pareto(evidence: Evidence, params: Mapping[str, float], maximize: bool = True) -> list[str]:
    """The front of value and parameters, of the candidates that were trained whole, by parameters.

    All are compared by their value on the selection split, which is the one that all of them have.

    Args:
        evidence: What was measured, in any order.
        params: The trainable parameters of each candidate, or another cost, in the order in which they were tried;
            others are left out.
        maximize: Whether a higher value is better.

    Returns:
        Keys: each has more parameters than the one before, and a better value. Of equal ones there is the first.
    """
    sign = 1 if maximize else -1
    values = {key: sign * evidence.values[key] for key in params if key in evidence.values}
    front: list[str] = []
    for key in sorted(values, key=lambda key: (params[key], -values[key])):
        if not front or values[key] > values[front[-1]]:
            front.append(key)
    return front
