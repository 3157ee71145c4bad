"""Spaces: which candidates may be chosen, and how to draw and vary them within a hard budget. Never imports torch."""

from petlas.spaces.budget import Budget, Limit
from petlas.spaces.candidate import Candidate
from petlas.spaces.check import check_space
from petlas.spaces.dimension import DepthRule, Dimension
from petlas.spaces.errors import SpaceError
from petlas.spaces.load import load_space
from petlas.spaces.places import Stages, parse_blocks
from petlas.spaces.settings import Choices, Range, Setting
from petlas.spaces.space import Space
from petlas.spaces.vary import CrossoverUnit

__all__ = [
    "Budget",
    "Candidate",
    "Choices",
    "CrossoverUnit",
    "DepthRule",
    "Dimension",
    "Limit",
    "Range",
    "Setting",
    "Space",
    "SpaceError",
    "Stages",
    "check_space",
    "load_space",
    "parse_blocks",
]
