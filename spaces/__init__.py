"""Spaces: which designs may be chosen, and how to draw and vary them within a hard budget. Never imports torch."""

from petlas.spaces.budget import Budget
from petlas.spaces.check import check_space
from petlas.spaces.dimension import DepthRule, Dimension
from petlas.spaces.errors import SpaceError
from petlas.spaces.load import load_space
from petlas.spaces.space import Space

__all__ = ["Budget", "DepthRule", "Dimension", "Space", "SpaceError", "check_space", "load_space"]
