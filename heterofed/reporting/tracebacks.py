"""What a script shows where an error of ours ends it: the message and its remedy. A traceback is
for bugs, and for the code of users, cut to their own frames.

Nothing is changed at import. Where an error leaves a public call, and the interpreter still has its
own `sys.excepthook`, one that prints so takes its place until the next public call.
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
"""How the note begins on what a hook raised."""

_OURS = (str(Path(heterofed.errors.__file__).parent), contextlib.__file__)


@contextmanager
def plain_endings() -> Iterator[None]:
    """Have what leaves this block shown without frames of ours, where nothing catches it."""
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
    except Exception:  # whatever happens, the error is shown
        sys.__excepthook__(kind, error, trace)


def _cut(shown: traceback.TracebackException) -> traceback.TracebackException:
    """Without frames of ours, in what it came of too."""
    shown.stack[:] = [each for each in shown.stack if not each.filename.startswith(_OURS)]
    for other in (shown.__cause__, shown.__context__):
        if other is not None:
            _cut(other)
    return shown
