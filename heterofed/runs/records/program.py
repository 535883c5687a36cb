"""Notes which program runs, and runs it again."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from heterofed.errors import ConfigError

REMEDY = "give the program that launches the task: heterofed replay ... --program FILE [ARGUMENTS]"


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A program that was started.

    Attributes:
        module: the name of the module, if it was started as `python -m`.
        arguments: the path of the program, and its arguments.
        folder: the working directory.
    """

    module: str = ""
    arguments: tuple[str, ...] = ()
    folder: str = ""


def this_program() -> Program:
    """Return the program of this process."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = "" if spec is None else spec.name.removesuffix(".__main__")
    return Program(module=name, arguments=tuple(sys.argv), folder=os.fspath(Path.cwd()))


def run_program(program: Program) -> None:
    """Run a program in this process, as if Python had been started with it.

    Raises:
        ConfigError: it is not there.
    """
    if program.folder and not Path(program.folder).is_dir():
        raise ConfigError(f"{program.folder}, where the program ran, is gone; {REMEDY}")
    if program.folder:
        os.chdir(program.folder)
    path = program.arguments[0] if program.arguments else ""
    if not program.module and not Path(path).is_file():
        raise ConfigError(f"no file {path!r} launched the task; {REMEDY}")
    sys.argv = list(program.arguments)
    beside = Path.cwd() if program.module else Path(path).absolute().parent
    sys.path.insert(0, os.fspath(beside))
    if program.module:
        runpy.run_module(program.module, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(path, run_name="__main__")


def given_program(given: Sequence[str]) -> Program:
    """Return the program that a user gave, to be run in the current directory."""
    return Program(arguments=tuple(given), folder=os.fspath(Path.cwd()))
