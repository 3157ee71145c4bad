"""How sensitive the loss on a task is to each weight of a backbone, and what is made of that.

What is offered here comes without torch: a report is read as quickly as it was slow to make. `measuring` and
`allocation` compute.
"""

from petlas.search.sensitivity.report import (
    BUDGETS,
    FILE,
    PARTS,
    PICTURE,
    Allocated,
    SensitivityReport,
    budgets_of,
    keep_report,
    kept_report,
    make_report,
    read_report,
    seed_designs,
    tell,
    with_pruned_space,
)
from petlas.search.sensitivity.sizing import Sites, proportional_design, pruned, sensitivity_at

__all__ = [
    "BUDGETS",
    "FILE",
    "PARTS",
    "PICTURE",
    "Allocated",
    "SensitivityReport",
    "Sites",
    "budgets_of",
    "keep_report",
    "kept_report",
    "make_report",
    "proportional_design",
    "pruned",
    "read_report",
    "seed_designs",
    "sensitivity_at",
    "tell",
    "with_pruned_space",
]
