"""How an export fails."""

from __future__ import annotations

from petlas.errors import UserError


class ExportError(UserError):
    """An adapter that cannot be handed over in that form, or not there: the message says why and what to do."""


class InexactError(RuntimeError):
    """An export that does not compute what the adapter computes; nothing was written."""
