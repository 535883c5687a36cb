"""Runs tests over the mutants of a module, each in a fork, and says which they noticed.

Importing and collecting take longer than most tests, so both are done once: the tests are collected
over the code as it is, and in a fork for each mutant the changed function takes the place of the
one that was imported. What a module or a class does while it is imported (a constant, a default, a
base) cannot be exchanged so; then everything is imported anew, with the mutant on the disk.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from inspect import CO_NEWLOCALS
from pathlib import Path
from types import CodeType, FunctionType

import pytest
from hypothesis import is_hypothesis_test

PYTEST = ["-x", "-q", "-m", "not long", "-p", "no:cacheprovider", "--basetemp=tmp"]
# The same random examples at each call: whether a mutant is killed does not hang on luck.
PYTEST += ["-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"]
PYTEST += ["--hypothesis-seed=0", "--hypothesis-profile=any failure"]

WAITING_SECONDS = 120.0
"""For a mutant that computes nothing and waits for what never comes; a machine may be busy."""

Places = tuple[str, int]
"""Qualified name and line of a function."""


def forked(work: Callable[[], int], processor_seconds: float | None = None) -> str:
    """Do the work in a fork.

    Args:
        work: gives the exit code: 0 where the tests passed.
        processor_seconds: after so many it is late; None for no limit.

    Returns:
        "survived" where the tests passed, "killed" where they did not, "late" where they did not
        end.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        if processor_seconds is not None:
            limit = int(processor_seconds) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        try:
            os._exit(work())
        finally:
            os._exit(1)
    deadline = time.monotonic() + WAITING_SECONDS
    while processor_seconds is None or time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            ended = os.waitstatus_to_exitcode(status)
            late = ended in (-signal.SIGXCPU, -signal.SIGKILL)
            return "late" if late else "killed" if ended else "survived"
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "late"


def run(tests: Iterable[str], *plugins: object, compiled: bool = False) -> int:
    """Run tests from files, in silence.

    Args:
        tests: their files.
        plugins: of pytest.
        compiled: keep compiled files. They are told from stale ones by size and second, which
            mutants have in common; so only where the code is as it is in the repository.
    """
    sys.dont_write_bytecode = not compiled
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    return int(pytest.main([*PYTEST, *tests], plugins=list(plugins)))


class Swapping:
    """A plugin of pytest that, in place of running the tests once, runs them over each mutant.

    Args:
        path: of the module.
        codes: by key: the code of the functions that a mutant changes, by their places.
        processor_seconds: for one mutant.
        note: called with the key and the outcome.
    """

    def __init__(
        self,
        path: Path,
        codes: dict[str, dict[Places, CodeType]],
        processor_seconds: float,
        note: Callable[[str, str], None],
    ) -> None:
        self._path = str(path)
        self._codes = codes
        self._seconds = processor_seconds
        self._note = note

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Stands in for the loop over the tests."""
        # Most mutants fail at once; what draws many examples comes last.
        session.items.sort(key=lambda item: is_hypothesis_test(getattr(item, "function", None)))
        functions = defaultdict(list)
        for each in gc.get_objects():
            # No isinstance: a proxy among them would ask what it stands for, which may be gone.
            if type(each) is FunctionType and each.__code__.co_filename == self._path:
                functions[_place(each.__code__)].append(each)
        for key, changed in self._codes.items():

            def work(changed: dict[Places, CodeType] = changed) -> int:
                for place, code in changed.items():
                    for function in functions[place]:
                        function.__code__ = code
                return _first_failure(session)

            self._note(key, forked(work, self._seconds))
        return True


def _first_failure(session: pytest.Session) -> int:
    following = [*session.items[1:], None]
    for item, after in zip(session.items, following, strict=True):
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        if session.testsfailed:
            return 1
    return 0


def functions_changed(before: CodeType, after: CodeType) -> dict[Places, CodeType] | None:
    """The functions of a module that differ; None where the module, or a class in it, does."""
    if before.co_flags & CO_NEWLOCALS:
        return {} if before == after else {_place(before): after}
    if before.co_code != after.co_code or before.co_names != after.co_names:
        return None
    changed: dict[Places, CodeType] = {}
    for one, other in zip(before.co_consts, after.co_consts, strict=True):
        if isinstance(one, CodeType) and isinstance(other, CodeType):
            inner = functions_changed(one, other)
            if inner is None:
                return None
            changed |= inner
        elif (type(one), one) != (type(other), other):
            return None
    return changed


def _place(code: CodeType) -> Places:
    return code.co_qualname, code.co_firstlineno
