"""Shortens what a script prints when an error ends it.

An error of heterofed prints its message with the remedy and no traceback. An exception of a hook
prints a traceback with only the user's own frames. Importing this module changes nothing: when an
error leaves a public call and `sys.excepthook` is Python's own, it is replaced until the next
public call.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import heterofed.errors
from heterofed.errors import HeteroFedError, LocalProtocolError
from heterofed.reporting.wrapping import error_line, wrapped

RAISED_IN = "heterofed: raised in "
"""The beginning of the note on an exception that a hook raised."""

_OURS = (str(Path(heterofed.errors.__file__).parent), contextlib.__file__)


@contextmanager
def plain_endings() -> Iterator[None]:
    """Print an uncaught exception of this block without frames of heterofed."""
    if sys.excepthook is _show:
        sys.excepthook = sys.__excepthook__
    try:
        yield
    except BaseException:
        if sys.excepthook is sys.__excepthook__:
            sys.excepthook = _show
        raise


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    notes = getattr(error, "__notes__", [])
    try:
        if isinstance(error, HeteroFedError) and not isinstance(error, LocalProtocolError):
            *before, _ = error.shown(trace)
            last = error_line(type(error).__name__, str(error), sys.stderr)
            lines = [*(wrapped(each, sys.stderr) for each in before), last]
        elif isinstance(error, KeyboardInterrupt):
            lines = ["interrupted", *notes]
        elif any(str(note).startswith(RAISED_IN) for note in notes):
            lines = list(_cut(traceback.TracebackException(kind, error, trace)).format())
        else:
            sys.__excepthook__(kind, error, trace)
            return
        sys.stderr.write("".join(f"{each.rstrip()}\n" for each in lines))
    except Exception:  # the error must be shown in any case
        sys.__excepthook__(kind, error, trace)


def _cut(shown: traceback.TracebackException) -> traceback.TracebackException:
    """Return a traceback without frames of heterofed, and its causes likewise."""
    shown.stack[:] = [each for each in shown.stack if not each.filename.startswith(_OURS)]
    for other in (shown.__cause__, shown.__context__):
        if other is not None:
            _cut(other)
    return shown
