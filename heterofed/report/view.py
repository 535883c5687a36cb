"""Arranges a report for templates: headlines, sentences, and figures in the order of the page."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from heterofed.report.model import Metric, Phase, RunReport
from heterofed.report.words import LEVEL_WORDS, PROTECTS
from heterofed.reporting.units import bytes_shown, seconds_shown, value_shown

STATES = {
    "finished": "Finished",
    "failed": "Failed",
    "interrupted": "Stopped by its user",
    "running": "Not finished",
    "unknown": "State not known",
}

LEADING = ("auc", "auroc", "roc_auc", "accuracy", "r2", "rmse", "mae", "f1")
"""The metrics that a headline prefers, in this order."""


class Headline(NamedTuple):
    """One of the numbers at the top: its name, its value, and a note on it."""

    name: str
    value: str
    note: str = ""
    level: str = ""


def values(report: RunReport) -> dict[str, Any]:
    """Return the values that every template gets."""
    return {
        "report": report,
        "state": STATES[report.outcome.state],
        "lead": lead(report),
        "headlines": headlines(report),
        "remedy": remedy(report),
        "most_seconds": max((each.seconds for each in report.phases), default=0.0),
        "levels": LEVEL_WORDS,
        "protects": PROTECTS,
        "best": best(report),
        "parts_of": parts_of,
        "results": results(report),
        "task_type": report.evaluation.kind
        if report.evaluation and report.evaluation.kind
        else "other",
        "dataset": f"{counted(report.counts.test, 'test row')} that {report.everybody} have",
    }


def lead(report: RunReport) -> str:
    """Return a sentence about what happened."""
    others = listed(report.others) or "no other party"
    if report.purpose == "psi":
        what = f"{report.party} looked with {others} for the ids that all of them have"
        return f"{what}: {report.counts.common or 0:,} of its {report.counts.own or 0:,}."
    rounds = counted(report.rounds, "round")
    done = report.outcome.state == "finished" or report.is_of_earlier_run
    what = f"{report.party} trained a model together with {others}"
    what = what if done else f"{report.party} was to train a model together with {others}"
    rows = (
        f" on {counted(report.counts.common, 'row')} that {report.everybody} have"
        if report.counts.common
        else ""
    )
    so_far = "" if done else " so far"
    return f"{what}: {rounds}{so_far}{rows}. No columns were pooled."


def headlines(report: RunReport) -> list[Headline]:
    """Return the numbers at the top of the page."""
    found = [_rows(report)]
    if report.purpose == "train":
        planned = f"of {report.planned_rounds:,} planned" if report.planned_rounds else ""
        found.append(Headline("Rounds trained", f"{report.rounds:,}", planned))
    if (metric := best(report)) is not None:
        found.append(metric)
    if report.leaks:
        worst = report.leaks[0]
        found.append(
            Headline("Worst leak measured", value_shown(worst.worst), worst.sentence, worst.level)
        )
    if report.seconds is not None:
        found.append(Headline("Time", seconds_shown(report.seconds), day(report.ended)))
    if report.bytes_sent or report.bytes_received:
        sent, received = bytes_shown(report.bytes_sent), bytes_shown(report.bytes_received)
        found.append(Headline("Sent", sent, f"{received} received"))
    return [each for each in found if each.value]


def best(report: RunReport) -> Headline | None:
    """Return the most important metric: of the evaluation, or else of the last test."""
    if report.evaluation is not None:
        scores = {_plain(each.name): each for each in report.evaluation.scores}
        name = next((each for each in LEADING if each in scores), "")
        if name and (value := scores[name].value) is not None:
            return Headline(scores[name].name, value_shown(value), scores[name].meaning)
    metrics: dict[str, Metric] = {}
    for one in report.metrics:
        for each in one.metrics:
            metrics.setdefault(_plain(each.name), each)
    if not metrics:
        return None
    metric = metrics[next((each for each in LEADING if each in metrics), next(iter(metrics)))]
    return Headline(metric.name, value_shown(metric.last), metric.meaning)


def results(report: RunReport) -> list[tuple[str, float]]:
    """Return the final metrics of the evaluation, or else of the last tests, without training's."""
    if report.evaluation is not None and report.evaluation.scores:
        scores = report.evaluation.scores
        return [(each.name, each.value) for each in scores if each.value is not None]
    tested = [one for one in report.metrics if one.name != "train"]
    return [(each.name, each.last) for one in tested for each in one.metrics]


def remedy(report: RunReport) -> str:
    """Return what to do about a launch that failed, if its message does not say it."""
    outcome = report.outcome
    if outcome.state == "interrupted":
        return "Start all parties again: they go on from the last checkpoint that all of them hold."
    if outcome.state == "running":
        return (
            "Where no process runs any more it was killed, or its machine went down: start all"
            " parties again, and they go on from the last checkpoint that all of them hold."
        )
    if outcome.state == "failed" and outcome.hook:
        return (
            f"{outcome.error} was raised by {outcome.hook}, a method of this party's own. Its text"
            " may hold data and is not kept here: the log has it."
        )
    return ""


def counted(count: int | None, what: str) -> str:
    """Return a count with its noun: `1 round`, `12 rounds`."""
    return f"{count or 0:,} {what}{'' if count == 1 else 's'}"


def listed(names: Iterable[str]) -> str:
    """Return a list in words: `a`, `a and b`, `a, b and c`."""
    *first, last = [*names] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def day(moment: str) -> str:
    """Return the date of a time in ISO 8601: `26 November 2026`; other text is returned
    unchanged.
    """
    found = _parsed(moment)
    return f"{found.day} {found:%B %Y}" if found else moment


def moment(text: str) -> str:
    """Return the time in words: `2026-11-26 17:13 UTC`."""
    found = _parsed(text)
    return f"{found:%Y-%m-%d %H:%M} UTC" if found else text


def parts_of(phase: Phase) -> list[tuple[str, float]]:
    """Return the parts of the seconds of a phase, by name."""
    rest = max(0.0, phase.seconds - phase.compute - phase.encode - phase.wait)
    return [
        ("compute", phase.compute),
        ("encode", phase.encode),
        ("wait", phase.wait),
        ("rest", rest),
    ]


def _rows(report: RunReport) -> Headline:
    counts = report.counts
    if counts.common is None:
        return Headline("", "")
    share = f"{100 * counts.common / counts.own:.0f} % of this party's" if counts.own else ""
    return Headline("Rows in common", f"{counts.common:,}", share)


def _parsed(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_").removeprefix("test_")
