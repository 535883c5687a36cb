"""Says what `heterofed doctor` finds: this machine, its keys and terms, the others, a forecast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from heterofed.cli import machine
from heterofed.cli.forecast import Phase, is_shared, psi_forecast, train_forecast
from heterofed.cli.machine import Machine
from heterofed.cli.measures import psi_costs, step_seconds
from heterofed.cli.own_party import own_party
from heterofed.cli.probe import Probe, probe_as_collaborator, probe_as_host
from heterofed.cli.task import find_task
from heterofed.errors import ConfigError
from heterofed.files import heterofed_home
from heterofed.identity import consent
from heterofed.identity.task_file import known_tasks
from heterofed.identity.task_terms import TaskFile, terms_digest
from heterofed.protocol.messages import Facts, Work
from heterofed.rendezvous.agreement import task_digest
from heterofed.rendezvous.backend import TaskPlace
from heterofed.reporting.units import bytes_shown, seconds_shown

CLOCK_SECONDS = 60.0
"""The difference of two clocks above which times in logs and days of expiry mislead."""

FAR_SECONDS = 0.02
"""The round trip above which staleness makes a training faster."""

FILES_PER_PARTY = 64
"""About the files that a Host has open for one Collaborator, with its waiting connections."""

WARNING = "WARNING: "

Said = Iterator[tuple[str, dict[str, Any] | None]]
"""The lines of the report; after the lines of a probe it stands as data, beside an empty line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The numbers that the user wants a forecast for; None takes the value of the task.

    Attributes:
        ids: the number of ids of this party.
        common: the number of common ids.
        rounds: the number of rounds.
        batch_size: the number of rows in a batch.
        width: the numbers that a Collaborator sends for each row.
        columns: the number of input columns of a Collaborator.
        wait: the seconds to wait for the other parties.
    """

    ids: int
    common: int | None
    rounds: int | None
    batch_size: int | None
    width: int
    columns: int
    wait: float


def diagnosed(source: str | None, party: str | None, results: Path, asked: Asked) -> Said:
    """Look at this machine and, with a task, at the others; yield what there is to say.

    Args:
        source: a task id, the path of a task file, or None to look at this machine alone.
        party: the party that asks, or None for the one whose key is on this machine.
        results: the folder for results.
        asked: what a forecast is wanted of.

    Raises:
        ConfigError: the task file or the key cannot be used, or the numbers do not fit together.
        TaskFailed: another party is missing or broke the protocol.
    """
    found = machine.this_machine(results)
    if source is None:
        yield from _said(_of_machine(found, asked.ids, 1))
        if not known_tasks(heterofed_home()):
            hint = "see `heterofed task new` and `heterofed task accept`"
            yield f"there is no task file here yet: {hint}", None
        return
    task = find_task(source)
    name = party or own_party(task)
    place = TaskPlace(task, name, heterofed_home(), insecure=True)
    yield from _said(_of_machine(found, asked.ids, len(task.collaborators)))
    yield from _said(_of_terms(task, name))
    is_host = task.member(name) is task.host
    work = _work(task, asked) if is_host else None
    yield _waiting(task, asked.wait, is_host), None
    for probe in _probes(place, name, work, found, asked):
        yield from _said(_of_probe(probe, probe.shop if is_host else probe.host))
        yield "", _as_data(probe)


def _said(lines: Iterator[str]) -> Said:
    return ((line, None) for line in lines)


def _waiting(task: TaskFile, wait: float, is_host: bool) -> str:
    if is_host:
        return f"waiting up to {wait:.0f} s for `heterofed doctor {task.task}` of the others"
    return f"connecting to {task.address} for up to {wait:.0f} s"


def _probes(
    place: TaskPlace, name: str, work: Work | None, found: Machine, asked: Asked
) -> Iterator[Probe]:
    def measure(given: Work) -> Facts:
        return _facts(found, given, asked.ids, task_digest(place.task.task))

    if work is not None:
        yield from probe_as_host(place, name, work, measure, asked.wait)
    else:
        yield probe_as_collaborator(place, name, measure, asked.wait)


def _of_machine(found: Machine, ids: int, parties: int) -> Iterator[str]:
    yield f"this machine: {found}"
    needed = machine.LEAST_FILES + FILES_PER_PARTY * parties
    for warning in machine.warnings(found, ids, needed):
        yield WARNING + warning


def _of_terms(task: TaskFile, name: str) -> Iterator[str]:
    digest = terms_digest(task.terms())
    key = "the task has NO KEYS" if task.is_keyless else f"{name}'s key is the one in the task file"
    yield f"{key}; its terms are {digest[:16]}"
    accepted = consent.has_accepted(heterofed_home(), task.task, name, digest)
    if task.member(name) is not task.host and not accepted:
        yield (
            f"{WARNING}{name} has not accepted these terms: read them with `heterofed task show"
            f" {task.task}`, and run `heterofed task accept {task.task}`"
        )


def _work(task: TaskFile, asked: Asked) -> Work:
    """Return the work to forecast: what was asked, else what the task says, else a default.

    Raises:
        ConfigError: there would be more common ids than ids, or the step is too large.
    """
    plan = task.make_plan()
    common = asked.common or asked.ids
    if common > asked.ids:
        raise ConfigError(f"--common {common}: give at most the {asked.ids} ids of --ids")
    rounds = asked.rounds if asked.rounds is not None else plan.max_rounds or 10
    work = Work(
        ids=asked.ids,
        common=common,
        rounds=rounds if task.purpose == "train" else 0,
        batch_size=asked.batch_size or plan.batch_size or 256,
        width=asked.width,
        columns=asked.columns,
        protocol=plan.psi_protocol,
    )
    if not work.is_measurable:
        raise ConfigError(
            f"a training step of {work.batch_size} rows, {work.columns} columns and {work.width}"
            " features is too large to be measured: give a smaller --batch-size, --columns or"
            " --width"
        )
    return work


def _facts(found: Machine, work: Work, ids: int, task: bytes) -> Facts:
    """Measure this machine for a work; it takes a few seconds."""
    costs = psi_costs(work.protocol)
    step = step_seconds(work) if work.rounds else 0.0
    facts = msgspec.to_builtins(found)
    speed = msgspec.to_builtins(costs)
    return Facts(**facts, ids=ids, **speed, step=step, machine=machine.machine_digest(task))


def _of_probe(probe: Probe, other: Facts) -> Iterator[str]:
    link, work = probe.link, probe.work
    theirs = Machine(**{each: getattr(other, each) for each in Machine.__slots__})
    yield f"{probe.party}: {theirs}"
    yield (
        f"the connection: round trip {link.rtt * 1e3:.1f} ms, {bytes_shown(link.up)}/s to the Host,"
        f" {bytes_shown(link.down)}/s from it; the clocks differ by {abs(link.ahead):.1f} s"
    )
    psi = psi_forecast(work, probe.host, probe.shop, link)
    yield _of_phase(f"intersection of {work.ids:,} and {probe.shop.ids:,} ids", psi)
    if work.rounds:
        train = train_forecast(work, probe.host, probe.shop, link)
        yield _of_phase(f"{work.rounds} rounds of {work.common:,} common ids", train)
    for warning in _between(probe):
        yield WARNING + warning


def _of_phase(what: str, phase: Phase) -> str:
    return (
        f"forecast: {what}: {seconds_shown(phase.seconds)}, {bytes_shown(phase.to_host)} to the"
        f" Host, {bytes_shown(phase.from_host)} from it"
    )


def _between(probe: Probe) -> Iterator[str]:
    """Yield a sentence with a remedy for each fact of two machines that may spoil a run."""
    host, shop, link = probe.host, probe.shop, probe.link
    if host.version != shop.version:
        yield (
            f"the parties have heterofed {host.version} and {shop.version}: install the same"
            " version at both"
        )
    if abs(link.ahead) > CLOCK_SECONDS:
        yield (
            f"the clocks differ by {abs(link.ahead):.0f} s: set them by NTP, because keys and tasks"
            " expire by the day"
        )
    if probe.work.rounds and link.rtt > FAR_SECONDS:
        yield (
            'each batch waits for a round trip: let the Host set max_staleness="auto" or a larger'
            " batch_size"
        )


def _as_data(probe: Probe) -> dict[str, Any]:
    found = (probe.work, probe.host, probe.shop, probe.link)
    names = ("work", "host", "collaborator", "link")
    named: dict[str, Any] = {
        key: msgspec.structs.asdict(value) for key, value in zip(names, found, strict=True)
    }
    for key in ("host", "collaborator"):
        del named[key]["machine"]  # it says nothing to a reader
    named["same_machine"] = is_shared(probe.host, probe.shop)
    phases = {"psi": psi_forecast(*found), "train": train_forecast(*found)}
    return {"party": probe.party, **named, "forecast": msgspec.to_builtins(phases)}
