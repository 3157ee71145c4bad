"""The command line: a file per command, and a thin skin over `petlas.search.api`.

Heavy modules are imported by the commands that need them, so that `--help` is quick.
"""

from petlas.search.cli.app import main

__all__ = ["main"]
