"""How a run stands, in words: for the top of the page, for parties, and for screen readers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from heterofed.report.sources import shown
from heterofed.report.view import counted, listed
from heterofed.report.words import phase_words
from heterofed.reporting.units import seconds_shown, value_shown
from heterofed.watch.curves import courses
from heterofed.watch.run import Life, Seen
from heterofed.watch.state import PartyState

LIVES: dict[Life, str] = {
    "running": "Running",
    "gone": "Stopped without a word",
    "finished": "Finished",
    "failed": "Failed",
    "interrupted": "Stopped by its user",
    "unknown": "Not known",
}
TONES: dict[Life, str] = {"finished": "good", "failed": "bad", "gone": "bad", "running": "live"}
"""The class of the colour of each; all others are open."""

AGAIN = "Start all parties again: they go on from the newest checkpoint that all of them hold."


class Callout(NamedTuple):
    """What went wrong: a title, what is known of it, and what to do."""

    title: str
    text: str
    remedy: str
    tone: str = ""


def lead(seen: Seen) -> str:
    """What goes on, in a sentence."""
    state, others = seen.state, listed(map(shown, seen.state.parties)) or "the other parties"
    if seen.life != "running":
        done = counted(seen.rounds, "round")
        return f"{seen.party} trained together with {others}: {done}."
    lost = [shown(each.name) for each in state.parties.values() if each.presence == "lost"]
    if lost:
        return f"{listed(lost)} is lost. {seen.party} waits for it to come back."
    awaited = awaited_now(seen)
    waits = f" {seen.party} waits for {listed(awaited)}." if awaited else ""
    return f"{phase_now(seen)}{waits}"


def awaited_now(seen: Seen) -> list[str]:
    """The parties that are waited for now, also before the parties have met."""
    found = [each.name for each in seen.state.parties.values() if each.presence == "awaited"]
    if not found and seen.life == "running":
        found = seen.status.waiting_for
    return [shown(each) for each in found]


def phase_now(seen: Seen) -> str:
    """The phase that goes on, in a sentence."""
    phase = seen.state.phase or seen.status.phase
    number, told = seen.state.phase_round or 0, phase_words(seen.averages)
    if phase in ("train", "test", "checkpoint") and number:
        of = f" of {seen.planned:,}" if seen.planned else ""
        return f"Round {number:,}{of}: {told[phase]}."
    what = told.get(phase, "")
    return f"{what[:1].upper()}{what[1:]}." if what else "Between two phases."


def standing(party: PartyState, seen: Seen, now: float) -> tuple[str, str]:
    """How a party stands, in words, with the class of the colour."""
    since = seconds_shown(max(0.0, now - party.since)) if party.since else "a while"
    match party.presence:
        case "lost" if not seen.is_over:
            return f"lost {since} ago; waited for", "bad"
        case "lost" | "gone":
            return "lost", "bad"
        case "awaited" if not seen.is_over:
            return f"waited for since {since}", "open"
        case _ if seen.is_over:
            return "the run is over", "soft"
        case _:
            return "connected", "good"


def callouts(seen: Seen) -> list[Callout]:
    """What went wrong with the last launch; empty where nothing did."""
    error = seen.status.error
    where = f" in phase {shown(seen.status.phase)}" if seen.status.phase else ""
    where += f", round {seen.status.round}" if seen.status.round > 0 else ""
    match seen.life:
        case "gone":
            return [
                Callout(
                    f"No process of this run is on this machine any more; the last was{where}.",
                    "It was killed, or its machine went down."
                    " On another machine than the party's own, this page cannot tell.",
                    AGAIN,
                )
            ]
        case "interrupted":
            return [Callout(f"The last launch was stopped{where}.", "", AGAIN, "open")]
        case "failed" if error is not None:
            kind = f"The last launch failed{where} ({shown(error.type)})."
            if error.hook:
                return [
                    Callout(
                        kind,
                        f"It was raised by {shown(error.hook)}, a method of this party's own.",
                        "Its text may hold data and is not kept here: the log has it.",
                    )
                ]
            return [Callout(kind, *_remedy(seen.message))]
        case _:
            return []


def _remedy(message: str) -> tuple[str, str]:
    """A message of ours as what happened and what to do: it says the latter after a colon."""
    happened, found, remedy = message.rpartition("; ")
    if not found:
        happened, found, remedy = message.partition(": ")
    return (happened, f"{remedy[:1].upper()}{remedy[1:]}.") if found else (message, "")


def spoken(seen: Seen) -> str:
    """What a screen reader is told: the last round, lost parties, and the end."""
    parts: list[str] = []
    if seen.state.rounds:
        last = seen.state.rounds[max(seen.state.rounds)]
        of = f" of {seen.planned}" if seen.planned else ""
        parts.append(f"Round {last.round}{of} ended{_numbers(seen)}.")
    lost = [each.name for each in seen.state.parties.values() if each.presence in ("lost", "gone")]
    parts += [f"{shown(name)} is lost." for name in lost]
    if seen.is_over:
        parts.append(f"{LIVES[seen.life]}.")
    return " ".join(parts)


def _numbers(seen: Seen) -> str:
    last = [(name, points[-1][1]) for name, points in courses(seen).items()][:3]
    return f": {_listed_numbers(last)}" if last else ""


def _listed_numbers(values: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {value_shown(value)}" for name, value in values)
