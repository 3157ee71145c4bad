"""The commands, and how any of them ends: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, NoReturn

import typer

import petlas
from petlas.errors import UserError
from petlas.lazy import look_up
from petlas.search.cli.interrupts import heed_signals, resumable
from petlas.search.run_log import Naming, for_terminal

log = logging.getLogger("petlas")

COMMANDS: dict[str, str] = {
    "search": "petlas.search.cli.search:search",
    "score": "petlas.search.cli.score:score",
    "study": "petlas.search.cli.study:study",
    "retrain": "petlas.search.cli.retrain:retrain",
    "predict": "petlas.search.cli.predict:predict",
    "evaluate": "petlas.search.cli.evaluate:evaluate",
    "attention": "petlas.search.cli.attention:attention",
    "tsne": "petlas.search.cli.tsne:tsne",
    "export": "petlas.search.cli.export:export",
    "report": "petlas.search.cli.report:report",
    "validate": "petlas.search.cli.validate:validate",
    "plan": "petlas.search.cli.plan:plan",
    "methods": "petlas.search.cli.methods:methods",
    "datasets": "petlas.search.cli.datasets:datasets",
}
"""In the order of `--help`. To add one: write its file, and add its line."""

_DEBUG = "--debug"


def _version(asked: bool) -> None:
    if asked:
        print(petlas.__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Say more, and show the traceback of a failure.")] = False,
) -> None:
    """Search parameter-efficient designs for a pretrained vision backbone and a data set."""


@cache
def _app() -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name, place in COMMANDS.items():
        command: Callable[..., Any] = look_up(place)
        app.command(name)(resumable(command))
    return app


def main() -> None:
    """Run the command that the arguments of this process name, and end the process with its status."""
    debug = _DEBUG in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != _DEBUG]
    _log_to_stderr(logging.DEBUG if debug else logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal has no letter for
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # in the workers, too
    heed_signals()
    try:
        _app()(arguments, prog_name="petlas")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        _fail(error, debug)


def _fail(error: Exception, debug: bool) -> NoReturn:
    if debug:
        raise error
    if isinstance(error, UserError):
        print(f"petlas: {error}", file=sys.stderr)
        sys.exit(2)
    kind = type(error).__name__
    print(f"petlas: the run failed: {kind}: {error}\nfor the traceback: petlas {_DEBUG} ...", file=sys.stderr)
    sys.exit(1)


def _log_to_stderr(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Naming("%(message)s"))
    handler.addFilter(for_terminal)
    log.addHandler(handler)
    log.setLevel(level)
    log.propagate = False
