"""What only measures or shows: whatever it meets, the run goes on.

Measuring raises where user data has a form that nobody thought of. Such a failure costs a row of
some table and one log line. What protects (defences, budgets, epsilons) is no diagnostic: that
raises as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

logger = logging.getLogger("heterofed")

T = TypeVar("T")


class Harmless:
    """Runs blocks that only measure or show: what they raise is logged once each, and forgotten."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, what: str) -> _Block:
        """A context manager around a block; `what` names the diagnostic in the log line."""
        return _Block(self, what)

    def tell(self, what: str, error: Exception) -> None:
        """Log that a diagnostic has failed, unless it was told before."""
        if what not in self._told:
            self._told.add(what)
            with suppress(Exception):  # a user's log handler
                logger.warning("%s failed (%s); the run goes on", what, place_of(error))


class _Block:
    def __init__(self, harmless: Harmless, what: str) -> None:
        self._harmless = harmless
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, Exception):
            self._harmless.tell(self._what, error)
            return True
        return False


def place_of(error: BaseException) -> str:
    """The class of an error and the line that raised it; not its text, which may hold data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = type(error).__name__
    if trace is None:
        return name
    return f"{name} at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


class _Shielded:
    """Stands for a diagnostic: its methods give None where they raise; see `shielded`."""

    def __init__(self, diagnostic: object, what: str, harmless: Harmless) -> None:
        self._diagnostic = diagnostic
        self._what = what
        self._harmless = harmless

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # copying and pickling ask for these
        with self._harmless(self._what):
            value = getattr(self._diagnostic, name)
            if not callable(value):
                return value
            call = self._calling(name)
            self.__dict__[name] = call  # found at once the next time
            return call
        return None

    def _calling(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return getattr(self._diagnostic, name)(*args, **kwargs)
            except Exception as error:
                self._harmless.tell(self._what, error)
                return None

        return call


def shielded(make: Callable[[], T], what: str, harmless: Harmless | None = None) -> T:
    """Make a diagnostic whose methods never raise.

    Args:
        make: makes it; where that raises, every method gives None.
        what: names it in the one log line that tells of its failure.
        harmless: keeps what was told; by default one of its own.

    Returns:
        A stand-in, whose methods and properties give None where those of the diagnostic raise.
    """
    harmless = harmless or Harmless()
    diagnostic: object = _Missing()
    with harmless(what):
        diagnostic = make()
    return cast(T, _Shielded(diagnostic, what, harmless))


class _Missing:
    """Stands for a diagnostic that could not be made."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_, **__: None
