"""A run in a real terminal of any width: what fits, what is broken where, what has a colour."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from heterofed.errors import ConfigError
from heterofed.events import PhaseBegan, PhaseEnded, Progressed, RoundEnded, StillWaiting
from heterofed.reporting import console, wrapping
from heterofed.reporting.costs import PhaseCost
from heterofed.reporting.progress import columns
from heterofed.reporting.task_result import TaskResult
from heterofed.reporting.units import bytes_shown, seconds_shown, value_shown

WIDTHS = [60, 80, 120, 200]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FOLDER = Path("/home/ada/a-folder-with-a-long-name/heterofed_runs/loan-defaults/bank")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs something with a terminal for stderr; gives all that was written to it."""

    def in_terminal(width: int, what: Callable[[], None], **env: str) -> str:
        ours, theirs = pty.openpty()
        written: list[bytes] = []

        def read() -> None:
            while True:
                try:
                    chunk = os.read(ours, 1 << 16)
                except OSError:  # Linux says so where the last writer closed
                    return
                if not chunk:
                    return
                written.append(chunk)

        reader = threading.Thread(target=read)
        reader.start()
        given = {"TERM": "xterm-256color", "COLUMNS": str(width), "LINES": "40", **env}
        with monkeypatch.context() as patch, os.fdopen(theirs, "w") as terminal:
            patch.delenv("NO_COLOR", raising=False)
            for name, value in given.items():
                patch.setenv(name, value)
            patch.setattr("sys.stderr", terminal)
            # pytest's own handlers would count as a logging of the user's.
            patch.setattr(logging.Logger, "hasHandlers", lambda _: False)
            what()
        reader.join()
        os.close(ours)
        return b"".join(written).decode()

    return in_terminal


def a_run() -> None:
    log = logging.getLogger("heterofed")
    with console.attached() as show:
        show(
            StillWaiting(("shop",), 10.0, f"the task id and HETEROFED_HOME ({FOLDER}) with theirs")
        )
        log.warning(
            "row order not verified: shop yields no ids; yield a Batch with ids beside rows"
        )
        for number in (1, 12):
            show(PhaseBegan("train", 4000, "batches", number))
            show(Progressed(1234))
            show(PhaseEnded("train", 1.0, 1, 1, number))
            show(RoundEnded(number, 12, 3.9, 0.5 / number, {"auc": 0.7123, "accuracy": 0.8}))
        log.info("%s", a_result().summary())
        log.info("report: %s/report.html", FOLDER)
        log.error("a text of somebody else \x1b[2J\x07")


def a_result() -> TaskResult:
    result = TaskResult("loan-defaults", "bank", FOLDER, seconds=369.2)
    cost = PhaseCost(312.4, 402_000_000, 398_123_456, 171.0, 20.0, {"shop": 100.0, "phone": 11.0})
    result.phases = {"psi": PhaseCost(2.1, 1_234, 429), "train": cost}
    result.leaks = [
        "label AUC from gradient directions 1.00: shop can read the labels",
        "label AUC from gradient norms 0.57: phone learns little of the labels",
    ]
    result.metrics = {name: FOLDER / f"{name}.csv" for name in ("test", "train", "leakage")}
    return result


def lines(text: str) -> list[str]:
    """Log lines as they stay on the screen, without the bars that come and go."""
    plain = ESCAPES.sub("", text).replace("\r", "\n")
    return [line.rstrip() for line in plain.split("\n") if line.strip() and "\u2501" not in line]


@pytest.mark.parametrize("width", WIDTHS)
def test_lines_fit_and_are_broken_between_words(shown: Callable[..., str], width: int) -> None:
    found = lines(shown(width, a_run))
    too_long = [line for line in found if len(line) > width]
    assert all(str(FOLDER) in line for line in too_long)  # a path stays whole, to be copied
    assert sum(str(FOLDER) in line for line in found) == 3
    assert not any(re.search(r"\d/\d+/\d", line) for line in found)  # a date
    assert all(re.match(r"\d\d:\d\d:\d\d  |  {11}", line) or str(FOLDER) in line for line in found)
    table = [line for line in found if re.search(r"phase +time|psi +2|train +5", line)]
    assert len(table) == 3
    assert len({len(line) for line in table}) == 1  # columns are in line
    assert [line.split()[-4:] for line in table[1:]] == [
        ["1.2", "kB", "429", "B"],
        ["402.0", "MB", "398.1", "MB"],
    ]
    rounds = [line[10:] for line in found if "[ROUND" in line]
    assert rounds[0].startswith("[ROUND  1/12] loss 0.5000  auc 0.7123")
    assert rounds[1].startswith("[ROUND 12/12] loss 0.0417  auc 0.7123")


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_fit_and_say_what_is_left(shown: Callable[..., str], width: int) -> None:
    plain = ESCAPES.sub("", shown(width, a_run)).replace("\r", "\n")
    bars = [line.rstrip() for line in plain.split("\n") if "\u2501" in line]
    assert bars
    assert all(len(line) <= width for line in bars)
    file = io.StringIO()
    screen = Console(width=width, file=file)
    now = [0.0]
    progress = Progress(*columns(width), console=screen, get_time=lambda: now[0])
    task = progress.add_task("train 1", total=400_000, unit="batches")
    for done in (199_000, 199_500, 200_000):
        now[0] += 10.0
        progress.update(task, completed=done)
    screen.print(progress.get_renderable())
    (line,) = file.getvalue().splitlines()
    assert len(line) <= width
    assert re.match(r"train 1      \u2501+\S* +200000/400000 batches ", line), line
    assert re.search(r" 1 h 07 min left *$", line), line
    assert ("/s " in line) == (width >= 76)
    assert (" 30.0 s " in line) == (width >= 100)


def test_what_matters_has_a_colour_and_none_where_none_is_wanted(
    shown: Callable[..., str],
) -> None:
    text = shown(200, a_run)
    assert "\x1b[1;31mshop can read the labels" in text
    assert "\x1b[32mphone learns little of the labels" in text
    assert "\x1b[33mrow order not verified" in text
    assert "\x1b[2J" not in text.split("somebody else")[1]
    assert "\x07" not in text
    bare = shown(200, a_run, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", bare)
    assert "shop can read the labels" in bare


def test_an_error_ends_with_its_remedy_broken_between_words(
    shown: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrapping, "columns_of", lambda _: 60)
    message = f"the results folder {FOLDER} cannot be written; give another results_dir"

    def fail() -> None:
        hook = sys.excepthook
        try:
            with console.attached():
                error = ConfigError(message)
                error.add_note("heterofed: party bank, phase join")
                raise error
        except ConfigError as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            sys.excepthook = hook

    text = shown(60, fail)
    found = lines(text)
    assert "Traceback" not in text
    assert found[-1].endswith("give another results_dir")
    assert found[1] == "  heterofed: party bank, phase join"
    assert any(str(FOLDER) in line for line in found)
    assert "\x1b[1;31mConfigError:\x1b[0m the results" in text
    assert "\x1b" not in shown(60, fail, NO_COLOR="1")


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (429, "429 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (13_000_000, "13.0 MB"),
        (2.5e12, "2.5 TB"),
        (3e18, "3000.0 PB"),
    ],
)
def test_bytes(count: float, said: str) -> None:
    assert bytes_shown(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (369.2, "6 min 09 s"),
        (3599.6, "1 h 00 min"),
        (12_000, "3 h 20 min"),
        (86_399, "1 d 00 h"),
        (90_000, "1 d 01 h"),
    ],
)
def test_seconds(seconds: float, said: str) -> None:
    assert seconds_shown(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.81234, "0.8123"),
        (5, "5"),
        (-0.5, "-0.5"),
        (12345.6, "12,346"),
        (1.23456e-6, "1.235e-06"),
        (1e300, "1.000e+300"),
        (float("inf"), "\u221e"),
        (float("nan"), "not a number"),
    ],
)
def test_values(value: float, said: str) -> None:
    assert value_shown(value) == said
