"""Decoded images, kept in files that every process on the node maps."""

from petlas.datasets.stores.arrays import load_array, writing_array
from petlas.datasets.stores.cache import cache_folder, exclusive, sweep
from petlas.datasets.stores.mapped import INTERPOLATIONS, open_store

__all__ = ["INTERPOLATIONS", "cache_folder", "exclusive", "load_array", "open_store", "sweep", "writing_array"]
