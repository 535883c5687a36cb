"""Log lines without a terminal: date, level, task and party on each; or one JSON object each."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from heterofed import simulate
from heterofed.errors import ConfigError
from heterofed.events import PhaseBegan, PhaseEnded, RoundEnded, StillWaiting
from heterofed.hetero_nn.predict.collaborator import SignOfLife
from heterofed.reporting.log_lines import (
    VARIABLE,
    JsonLines,
    TextLines,
    chosen_format,
    facts,
    placed,
)
from heterofed.reporting.wrapping import error_line
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("heterofed", logging.WARNING, "file", 1, message, args, None)


def test_each_line_of_a_text_has_all_of_it() -> None:
    with placed("loans", "bank") as place:
        lines = TextLines().format(record("one\n  two %s", 2)).splitlines()
        assert [re.sub(r"^[\d-]{10}T[\d:]{8}\.\d{3}Z", "WHEN", each) for each in lines] == [
            "WHEN WARNING loans bank: one",
            "WHEN WARNING loans bank:   two 2",
        ]
        place.note(PhaseBegan("train", round=3))
        found = [json.loads(each) for each in JsonLines().format(record("one\ntwo")).splitlines()]
        assert [(each["phase"], each["round"], each["message"]) for each in found] == [
            ("train", 3, "one"),
            ("train", 3, "two"),
        ]
        place.note(PhaseEnded("train", 1.0, 0, 0, 3))
        assert json.loads(JsonLines().format(record("one")))["phase"] == ""
    assert " WARNING: one" in TextLines().format(record("one"))


@pytest.mark.usefixtures("home")
def test_a_run_in_json_is_one_object_per_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "json")
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    logger = logging.getLogger("heterofed")
    monkeypatch.setattr(logger, "propagate", False)  # pytest's handlers would count as configured
    simulate(TinyHost(tmp_path, psi_protocol="ecdh"), [TinyCollaborator(tmp_path)], task_id="tiny")
    text = written.getvalue()
    found = [json.loads(each) for each in text.splitlines()]
    assert {each["level"] for each in found} <= {"info", "warning"}
    rounds = [each for each in found if each.get("event") == "RoundEnded"]
    assert [each["facts"]["round"] for each in rounds] == [1, 2]
    assert {(each["task"], each["party"]) for each in rounds} == {("tiny", "alice")}
    assert rounds[0]["facts"]["metrics"]["accuracy"] >= 0
    assert [(each["phase"], each["round"]) for each in rounds] == [("train", 1), ("train", 2)]
    ended = [each for each in found if each.get("event") == "PhaseEnded"]
    assert {each["facts"]["phase"] for each in ended} == {each["phase"] for each in ended} != {""}
    summaries = [each for each in found if each.get("event") == "TaskSummary"]
    assert {each["party"] for each in summaries} == {"alice", "bob"}
    assert all("\n" not in each["message"] for each in found)
    assert summaries[0]["facts"]["phases"]["train"]["bytes_sent"] > 0
    assert not any(each in text for each in IDS)


def test_facts_are_numbers_whatever_library_they_come_from() -> None:
    metrics = {"accuracy": np.float64(0.5), "rows": np.int64(3), "undefined": np.float64("nan")}
    event = RoundEnded(2, 5, 1.0, None, metrics)  # type: ignore[arg-type]
    one = record("round")
    one.__dict__.update(facts(event))
    found = json.loads(JsonLines().format(one))
    assert found["facts"]["metrics"] == {"accuracy": 0.5, "rows": 3, "undefined": None}
    assert (found["phase"], found["round"]) == ("train", 2)


def test_a_format_that_there_is_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "xml")
    with pytest.raises(ConfigError, match="text or json"):
        chosen_format()
    with pytest.raises(ConfigError, match="text or json"):
        TinyHost(tmp_path).launch_task("tiny")
    assert not any(tmp_path.iterdir())


def test_an_idle_server_gives_a_sign_of_life_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "heterofed")
    alive = SignOfLife()
    for seconds in range(0, 3 * 3600, 300):
        alive(StillWaiting(("the Host",), float(seconds)))
        alive(PhaseBegan("join"))
    assert caplog.messages == [
        "idle: no request for 1 h 00 min; still serving",
        "idle: no request for 2 h 00 min; still serving",
    ]


def test_no_line_holds_what_a_terminal_obeys() -> None:
    text = "one\x1b]0;title\x07\n\ttwo\x9b2J\u202ethree"
    lines = TextLines().format(record(text)).splitlines()
    assert [line.partition("WARNING: ")[2] for line in lines] == [
        "one\ufffd]0;title\ufffd",
        "        two\ufffd2J\ufffdthree",
    ]
    assert error_line("error", "a\x9b2Jb", io.StringIO()) == "error: a\ufffd2Jb"
