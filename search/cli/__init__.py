"""The command line: a file per command, and a thin skin over `petlas.search.api`.

Heavy modules are imported by the commands that need them, so that `--help` is quick.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments of this process name, and end the process with its status."""
    try:
        from petlas.search.cli.app import main as run  # which takes a moment, in which Ctrl-C counts, too
    except KeyboardInterrupt:
        sys.exit(130)
    run()
