"""The parts of a run's page, each as HTML that stands in one place of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from heterofed.report.model import Phase
from heterofed.report.render import page_template
from heterofed.report.sources import shown
from heterofed.report.view import LEADING, Headline, parts_of
from heterofed.report.words import phase_words
from heterofed.reporting.units import bytes_shown, delay_shown, seconds_shown, value_shown
from heterofed.watch import words
from heterofed.watch.curves import courses, figures
from heterofed.watch.run import Seen
from heterofed.watch.state import PartyState, PhaseState
from heterofed.watch.timeline import rows

PACKAGE = "heterofed.watch"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something is.

    Attributes:
        name: of what.
        share: 0 to 1; None where it is not known.
        text: the same in words, with the time left.
    """

    name: str
    share: float | None
    text: str


def rendered(name: str, **values: Any) -> str:
    """One template of this package, filled in."""
    return page_template(f"{name}.html.j2", PACKAGE).render(**values).strip()


class RunParts:
    """The parts of a run's page. Those that change with time alone are made anew at each call, all
    others only when the run has changed.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._version = -1
        self._slow: dict[str, str] = {}

    def __call__(self, seen: Seen) -> dict[str, str]:
        """Each part's HTML, by the id of its place."""
        now = self._clock()
        if seen.version != self._version:
            self._version = seen.version
            self._slow = {
                "learning": _learning(seen),
                "leaks": _leaks(seen),
                "costs": _costs(seen),
                "batch": _batch(seen),
            }
        return {"top": _top(seen, now), "now": _now(seen, now), "parties": _parties(seen, now)} | (
            self._slow
        )


def _top(seen: Seen, now: float) -> str:
    is_host = seen.state.host == seen.state.party
    return rendered(
        "top",
        seen=seen,
        life=words.LIVES[seen.life],
        tone=words.TONES.get(seen.life, "open"),
        role="" if not seen.state.host else ", the Host" if is_host else ", a Collaborator",
        lead=words.lead(seen),
        callouts=words.callouts(seen),
        headlines=headlines(seen, now),
    )


def headlines(seen: Seen, now: float) -> list[Headline]:
    """The numbers on top of the page."""
    of = f"of {seen.planned:,} planned" if seen.planned else ""
    found = [Headline("Rounds trained", f"{seen.rounds:,}", of)]
    found += [Headline(name, value_shown(value)) for name, value in leading(seen)]
    if (seconds := took(seen, now)) is not None:
        found.append(Headline("Time", seconds_shown(seconds), "since the parties met"))
    sent = sum(each.sent for each in seen.state.phases.values())
    received = sum(each.received for each in seen.state.phases.values())
    found.append(Headline("Sent", bytes_shown(sent), f"{bytes_shown(received)} received"))
    return found


def leading(seen: Seen) -> list[tuple[str, float]]:
    """The last loss, and the last value of the metric that says most."""
    last = {name: points[-1][1] for name, points in courses(seen).items()}
    names = [name for name in last if name != "loss"]
    best = sorted(names, key=_rank)[:1]
    return [(name, last[name]) for name in ("loss", *best) if name in last]


def _rank(name: str) -> int:
    plain = name.lower().removeprefix("test_")
    return LEADING.index(plain) if plain in LEADING else len(LEADING)


def took(seen: Seen, now: float) -> float | None:
    """The seconds since the parties met first; of a run that has ended, those that it took."""
    if seen.summary.seconds is not None and seen.is_over:
        return seen.summary.seconds
    if not seen.state.began:
        return None
    return max(0.0, (seen.state.updated if seen.is_over else now) - seen.state.began)


def _now(seen: Seen, now: float) -> str:
    return rendered(
        "now",
        seen=seen,
        phase=words.phase_now(seen) if seen.life == "running" else "",
        bars=[each for each in (_of_phase(seen, now), _of_rounds(seen)) if each is not None],
    )


def _of_phase(seen: Seen, now: float) -> Progress | None:
    """How far the phase is that goes on."""
    state = seen.state
    if seen.life != "running" or not state.phase:
        return None
    done, total = seen.status.done or 0, state.expected_units()
    elapsed = max(0.0, now - state.phase_began)
    texts, share = [seconds_shown(elapsed)], None
    if total and done and seen.status.phase == state.phase:
        share = min(1.0, done / total)
        texts.insert(0, f"{done:,} of {total:,} {state.unit or 'units'}")
        texts.append(f"about {seconds_shown(elapsed * (1 - share) / share)} left")
    return Progress(f"Phase {state.phase}", share, ", ".join(texts))


def _of_rounds(seen: Seen) -> Progress | None:
    """How far the rounds are."""
    if not seen.planned:
        return None
    done = min(seen.rounds, seen.planned)
    text = f"{done:,} of {seen.planned:,}"
    recent = [each.seconds for each in list(seen.state.rounds.values())[-5:]]
    if recent and seen.life == "running" and done < seen.planned:
        left = (seen.planned - done) * sum(recent) / len(recent)
        text += f", about {seconds_shown(left)} left if no round stops early"
    return Progress("Rounds", done / seen.planned, text)


def _parties(seen: Seen, now: float) -> str:
    standings = [
        (each, *words.standing(each, seen, now), _link(each))
        for each in seen.state.parties.values()
    ]
    return rendered(
        "parties",
        seen=seen,
        own=words.LIVES[seen.life],
        tone=words.TONES.get(seen.life, "open"),
        standings=standings,
        awaited=words.awaited_now(seen),
        host=seen.state.host,
        shown=shown,
    )


def _link(party: PartyState) -> list[str]:
    """What is known of the link to a party: the round trip, and how fast large messages came."""
    found = []
    if party.round_trip is not None:
        found.append(delay_shown(party.round_trip))
    if party.fast_seconds:
        found.append(f"{bytes_shown(party.fast_bytes / party.fast_seconds)}/s")
    return found


def _learning(seen: Seen) -> str:
    return rendered("learning", figures=figures(seen), averages=seen.averages)


def _leaks(seen: Seen) -> str:
    return rendered(
        "leaks",
        seen=seen,
        limit=seen.limit("max_epsilon"),
        releases=seen.limit("max_releases_per_row"),
    )


def _costs(seen: Seen) -> str:
    told = phase_words(seen.averages)
    phases = [_phase(each, told) for each in seen.state.phases.values() if each.times]
    return rendered(
        "costs",
        phases=phases,
        parts_of=parts_of,
        most_seconds=max((each.seconds for each in phases), default=0.0),
        seconds=sum(each.seconds for each in phases),
        sent=sum(each.sent for each in phases),
        received=sum(each.received for each in phases),
    )


def _phase(phase: PhaseState, told: Mapping[str, str]) -> Phase:
    return Phase(
        name=shown(phase.name),
        meaning=told.get(phase.name, ""),
        seconds=phase.seconds,
        compute=phase.compute,
        encode=phase.encode,
        wait=phase.wait,
        sent=phase.sent,
        received=phase.received,
    )


def _batch(seen: Seen) -> str:
    batch = seen.state.batch
    return rendered(
        "batch", batch=batch, rows=rows(batch, seen.state.party) if batch is not None else []
    )
