"""What was measured of candidates, and what is chosen by it: neither torch nor Optuna is needed."""

from petlas.search.selection.agreement import Agreement, agreement_of, rank_agreement, regret
from petlas.search.selection.choice import choose, choose_by_belief
from petlas.search.selection.evidence import Difference, Evidence, Pooled
from petlas.search.selection.noise import Beliefs, Known, believe
from petlas.search.selection.pareto import pareto
from petlas.search.selection.pooling import Measurement
from petlas.search.selection.scores import Scale, scale_of

__all__ = [
    "Agreement",
    "Beliefs",
    "Difference",
    "Evidence",
    "Known",
    "Measurement",
    "Pooled",
    "Scale",
    "agreement_of",
    "believe",
    "choose",
    "choose_by_belief",
    "pareto",
    "rank_agreement",
    "regret",
    "scale_of",
]
