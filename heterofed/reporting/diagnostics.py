"""Runs diagnostics, which only measure or show, so that their failures never end a run.

A measurement may fail on user data of an unexpected form. Such a failure costs a row of a table and
one log line. Protections (defences, budgets, epsilons) are not diagnostics: their errors are
raised.
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
    """Runs blocks that only measure or show; an error in one is logged once and suppressed."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._blocks: dict[str, _Block] = {}

    def __call__(self, what: str) -> _Block:
        """Return a context manager around a block; `what` names the diagnostic in the log line."""
        block = self._blocks.get(what)
        if block is None:
            block = self._blocks[what] = _Block(self, what)
        return block

    def tell(self, what: str, error: Exception) -> None:
        """Log that a diagnostic has failed, unless this was logged before."""
        if what not in self._told:
            self._told.add(what)
            with suppress(Exception):  # a user's log handler may fail
                logger.warning("%s failed (%s); the run goes on", what, place_of(error))


class _Block:
    """A block of one diagnostic; it holds no state, so that one object serves all of them."""

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
    """Return an error's class and the line that raised it, but no text, which may hold data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = type(error).__name__
    if trace is None:
        return name
    return f"{name} at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


class _Shielded:
    """Wraps a diagnostic so that its methods return None instead of raising; see `shielded`."""

    def __init__(self, diagnostic: object, what: str, harmless: Harmless) -> None:
        self._diagnostic = diagnostic
        self._what = what
        self._harmless = harmless

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # copying and pickling look these up
        try:
            value = getattr(self._diagnostic, name)
        except Exception as error:
            self._harmless.tell(self._what, error)
            return None
        if not callable(value):
            return value
        call = self._calling(value)
        self.__dict__[name] = call  # found without a call the next time
        return call

    def _calling(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except Exception as error:
                self._harmless.tell(self._what, error)
                return None

        return call


def shielded(make: Callable[[], T], what: str, harmless: Harmless | None = None) -> T:
    """Make a diagnostic whose methods never raise.

    Args:
        make: makes the diagnostic. If it raises, every method of the result returns None.
        what: the name of the diagnostic in the log line about its failure.
        harmless: suppresses and logs the errors; by default a new object.

    Returns:
        A wrapper whose methods and properties return None if those of the diagnostic raise.
    """
    harmless = harmless or Harmless()
    diagnostic: object = _Missing()
    with harmless(what):
        diagnostic = make()
    return cast(T, _Shielded(diagnostic, what, harmless))


class _Missing:
    """Replaces a diagnostic that could not be made."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_, **__: None
