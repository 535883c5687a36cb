"""Converts a results folder to a report, also of a run that failed, still runs, or was killed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from heterofed._version import __version__
from heterofed.errors import ConfigError
from heterofed.files import heterofed_home
from heterofed.identity import consent
from heterofed.report import kept
from heterofed.report.evaluation import evaluated
from heterofed.report.figures import baselines, metric_sets
from heterofed.report.model import (
    Agreed,
    Counts,
    Link,
    Matching,
    Outcome,
    Outflow,
    Party,
    Phase,
    RunReport,
    SavedFile,
    Setting,
    State,
)
from heterofed.report.privacy import epsilons, leak_figures, leaks
from heterofed.report.sources import MAX_MESSAGE, Sources, number, shown, whole
from heterofed.report.words import PLAN, part_of, phase_words
from heterofed.reporting.egress import COLUMNS as EGRESS_COLUMNS
from heterofed.reporting.results import STATUS, SUMMARY

INTERSECTION, SIGNATURE = "intersection.csv", "signature.json"
MAX_ROWS = 1000
"""The most entries of what was sent: one for each kind of message, phase and party."""
MAX_PARTIES = 65


def gather(folder: Path) -> RunReport:
    """Return the report of a results folder.

    Args:
        folder: the folder `<results_dir>/<task_id>/<party>`.

    Raises:
        ConfigError: there is no run in the folder.
    """
    sources = Sources(folder)
    status, summary = sources.struct(STATUS, kept.Status), sources.struct(SUMMARY, kept.Summary)
    if status is None and summary is None:
        why = f" ({'; '.join(sources.unread)})" if sources.unread else ""
        raise ConfigError(
            f"{folder} holds no run: neither {STATUS} nor {SUMMARY}{why}; give a folder"
            " RESULTS_DIR/TASK/PARTY"
        )
    status, summary = status or kept.Status(), summary or kept.Summary()
    report = _described(status, summary)
    found = evaluated(sources)
    return msgspec.structs.replace(
        report,
        purpose=_purpose(summary, sources),
        counts=_counts(status, summary, sources),
        metrics=[one for one in metric_sets(sources) if found is None or not found.tells(one)],
        baselines=baselines(sources),
        evaluation=found,
        leaks=leaks(sources),
        leak_figures=leak_figures(sources),
        epsilons=epsilons(sources),
        egress=_egress(sources),
        files=_files(sources),
        unread=list(dict.fromkeys(sources.unread)),
    )


def _purpose(summary: kept.Summary, sources: Sources) -> Literal["train", "psi"]:
    intersects = not summary.rounds and sources.size(INTERSECTION) is not None
    return "psi" if intersects else "train"


def _described(status: kept.Status, summary: kept.Summary) -> RunReport:
    """Return what the two JSON files say about a run, without any measurements."""
    ended_well, party = bool(summary.run), summary.party or status.party
    told = phase_words(bool(status.plan.get("averaging")))
    return RunReport(
        task=shown(summary.task_id or status.task_id),
        party=shown(party),
        run=shown(summary.run or status.run),
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        made_with=__version__,
        started=shown(status.started),
        ended=shown(status.ended or ""),
        seconds=summary.seconds,
        outcome=_outcome(status, summary),
        is_of_earlier_run=ended_well and status.run != summary.run and status.state != "unknown",
        parties=_parties(status, party),
        everybody="all roles" if _sites(status.plan) else "all parties",
        meeting=shown(status.meeting),
        secured=status.secured,
        agreed=_agreed(status, party),
        psi=Matching(shown(summary.psi.protocol), shown(summary.psi.backend)),
        fusion=shown(summary.fusion),
        rounds=summary.rounds if ended_well else max(0, status.round),
        planned_rounds=whole(status.plan.get("max_rounds")) or 0,
        best_round=summary.best_round,
        defences={shown(what): shown(name) for what, name in status.defences.items()},
        leak_seconds=summary.leak_seconds,
        phases=[_phase(name, each, told) for name, each in summary.phases.items()],
        links=[
            Link(shown(party), number(each.round_trip), number(each.bytes_per_second))
            for party, each in summary.links.items()
        ],
        bytes_sent=summary.bytes_sent,
        bytes_received=summary.bytes_received,
        plan=_settings(status.plan, PLAN),
        settings=_settings(
            {name: value for name, value in status.settings.items() if value is not None}, {}
        ),
        versions={shown(name): shown(value) for name, value in status.versions.items()},
    )


def _settings(values: Mapping[str, Any], meanings: Mapping[str, str]) -> list[Setting]:
    return [
        Setting(shown(name), meanings.get(name, ""), _value(value))
        for name, value in values.items()
    ]


def _outcome(status: kept.Status, summary: kept.Summary) -> Outcome:
    known: dict[str, State] = {
        "running": "running",
        "finished": "finished",
        "failed": "failed",
        "interrupted": "interrupted",
    }
    state = known.get(status.state, "finished" if summary.run else "unknown")
    error = status.error or kept.Error()
    return Outcome(
        state=state,
        phase=shown(status.phase),
        round=max(0, status.round),
        error=shown(error.type),
        message=shown(error.message or "", MAX_MESSAGE),
        hook=shown(error.hook or ""),
        waiting_for=[shown(each) for each in status.waiting_for[:MAX_PARTIES]],
        updated=shown(status.updated),
    )


def _parties(status: kept.Status, own: str) -> list[Party]:
    host, others = status.plan.get("host"), status.plan.get("collaborators")
    keys = status.terms.fingerprints if status.terms else {}
    names = [host] if isinstance(host, str) else []
    names += others[:MAX_PARTIES] if isinstance(others, list) else []
    site_of = _sites(status.plan)
    averages = bool(status.plan.get("averaging"))
    return [
        Party(
            shown(name),
            "host" if name == host else "collaborator",
            name == own,
            shown(keys.get(name, "")),
            part_of(is_host=name == host, role=site_of.get(name, ""), averages=averages),
        )
        for name in map(str, names)
    ]


def _sites(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return the role of each party that is a site of one."""
    roles = plan.get("sites")
    return {
        str(party): shown(str(each.get("role", "")))
        for each in (roles if isinstance(roles, list) else [])
        if isinstance(each, dict) and isinstance(each.get("parties"), list)
        for party in each["parties"]
    }


def _agreed(status: kept.Status, party: str) -> Agreed | None:
    if status.terms is None or not status.terms.digest:
        return None
    digest, found = status.terms.digest, {}
    with contextlib.suppress(ConfigError):  # this user has no home folder
        found = consent.on_record(heterofed_home(), status.task_id, party, digest)
    last = "" if status.terms.expires == "never" else status.terms.expires
    return Agreed(
        shown(digest),
        shown(last),
        shown(found.get("accepted", "")),
        shown(found.get("started", "")),
    )


def _counts(status: kept.Status, summary: kept.Summary, sources: Sources) -> Counts:
    def known(name: str, ended: int | None) -> int | None:
        value = ended if summary.run else status.ids.get(name)
        return value or None  # 0 means that it was not counted yet

    return Counts(
        own=known("own", summary.own_ids),
        common=known("common", summary.ids),
        train=known("train", summary.train_rows),
        test=known("test", summary.test_rows),
        columns=_columns(sources),
    )


def _columns(sources: Sources) -> int | None:
    found = sources.struct(SIGNATURE, kept.Signature)
    if found is None:
        return None
    counts = [len(each.names) for each in found.tables] or [len(found.columns or ())]
    return sum(counts) or None


def _phase(name: str, cost: kept.PhaseCosts, told: Mapping[str, str]) -> Phase:
    wait = sum(cost.wait_seconds.values())
    slowest = max(cost.wait_seconds, key=cost.wait_seconds.__getitem__, default="")
    return Phase(
        name=shown(name),
        meaning=told.get(name, ""),
        seconds=cost.seconds,
        compute=cost.compute_seconds,
        encode=cost.encode_seconds,
        wait=wait,
        sent=cost.bytes_sent,
        received=cost.bytes_received,
        slowest=shown(slowest) if wait >= cost.seconds / 10 else "",
    )


def _egress(sources: Sources) -> list[Outflow]:
    rows = sources.table("outbound.csv")
    if rows and set(rows[0]) != set(EGRESS_COLUMNS):
        return []
    return [
        Outflow(
            phase=shown(row["phase"]),
            kind=shown(row["kind"]),
            holds=shown(row["holds"]),
            to=shown(row["to"]),
            messages=whole(row["messages"]) or 0,
            bytes=whole(row["bytes"]) or 0,
        )
        for row in rows[:MAX_ROWS]
    ]


def _files(sources: Sources) -> list[SavedFile]:
    try:
        names = sorted(each.name for each in sources.folder.glob("*.pt"))
    except OSError:
        names = []
    return [
        SavedFile(shown(name), size, sources.digest(name))
        for name in names
        if (size := sources.size(name)) is not None
    ]


def _item(value: object) -> str:
    """Return the value of a list; an agreed setting of the parties is a name and a value."""
    return ": ".join(map(str, value)) if isinstance(value, list) else str(value)


def _value(value: object) -> str:
    """Return a setting as people write it."""
    match value:
        case None:
            return "not set"
        case bool():
            return "yes" if value else "no"
        case []:
            return "none"
        case list():
            return shown(", ".join(_item(each) for each in value))
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return shown(value)
