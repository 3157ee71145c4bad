"""What `petlas methods` lists."""

from __future__ import annotations

from typing import Any

from petlas.petl import METHODS, Design, DesignError, count_params, get_method, shape_by_name


def list_methods(backbone: str) -> list[dict[str, Any]]:
    """Every method with its parameters at its default size on a backbone, head excluded.

    Where a backbone cannot take it, `params` is None and `refused` says why.
    """
    shape = shape_by_name(backbone)
    rows = []
    for name in METHODS:
        method = get_method(name)
        design = Design.of(method.baseline(shape, method.default_size), backbone)
        params: int | None = None
        refused: str | None = None
        try:
            params = count_params(design, shape)
        except DesignError as refusal:
            refused = str(refusal)
        rows.append(
            {
                "method": name,
                "summary": method.summary,
                "size": method.default_size,
                "size_means": method.size_means,
                "params": params,
                "refused": refused,
                "sites": list(method.sites),
                "options": dict(method.options),
                "zero_start": method.zero_start,
                "mergeable": method.mergeable,
                "elastic": method.size_means is not None,
                "paper": method.paper,
            }
        )
    return rows
