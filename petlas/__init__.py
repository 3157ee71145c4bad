"""Architecture search over parameter-efficient transfer learning modules for vision backbones."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("petlas")
except PackageNotFoundError:  # run from a folder that was never installed
    __version__ = "0+unknown"
