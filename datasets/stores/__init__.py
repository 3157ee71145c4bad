"""Decoded images, kept in files that every process on the node maps."""

from petlas.datasets.stores.mapped import INTERPOLATIONS, open_store

__all__ = ["INTERPOLATIONS", "open_store"]
