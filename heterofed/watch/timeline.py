"""One batch as rows of bars: who computes, who waits, and what travels when. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from heterofed.report.sources import shown
from heterofed.reporting.costs import Work
from heterofed.reporting.journal_records import Batch, Span

MAX_ROWS = 40
LEAST = 0.8
"""The least width of a bar, in hundredths of the batch, so that it can be seen."""

CLASSES: dict[Work, str] = {
    "compute": "compute",
    "elsewhere": "compute",
    "encode": "encode",
    "wait": "wait",
    "sent": "travel",
    "received": "travel",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: where it begins and how wide it is, in hundredths of the batch."""

    x: float
    width: float


@dataclass(slots=True)
class Row:
    """One kind of work of one party.

    Attributes:
        label: what it is, in words.
        kind: the class of its colour.
        seconds, bytes: how much it was.
        bars: when it was.
    """

    label: str
    kind: str
    seconds: float = 0.0
    bytes: int = 0
    bars: list[Bar] = field(default_factory=list)


def rows(batch: Batch, own: str) -> list[Row]:
    """The rows of a batch, in the order in which each kind of work began.

    Args:
        batch: as it was traced.
        own: the feature key of the party whose clock it was.
    """
    found: dict[tuple[Work, str], Row] = {}
    for span in batch.spans:
        row = found.setdefault(
            (span.work, span.party),
            Row(_label(span, shown(own), shown(span.party)), CLASSES[span.work]),
        )
        row.seconds += span.seconds
        row.bytes += span.bytes
        _draw(row, span, batch.seconds or 1.0)
    return sorted(found.values(), key=lambda each: each.bars[0].x)[:MAX_ROWS]


def _draw(row: Row, span: Span, whole: float) -> None:
    """Add a bar; one that touches the last is drawn as one with it."""
    begin = max(0.0, min(100.0, 100 * (span.end - span.seconds) / whole))
    end = max(begin, min(100.0, 100 * span.end / whole))
    begin = min(begin, 100.0 - LEAST)
    end = max(end, begin + LEAST)
    if row.bars and begin <= row.bars[-1].x + row.bars[-1].width + LEAST:
        last = row.bars.pop()
        begin, end = min(begin, last.x), max(end, last.x + last.width)
    row.bars.append(Bar(round(begin, 2), round(end - begin, 2)))


def _label(span: Span, own: str, party: str) -> str:
    match span.work:
        case "compute":
            return f"{own} computes"
        case "encode":
            return f"{own} encodes, for {party}"
        case "wait":
            return f"{own} waits for {party}"
        case "sent":
            return f"{own} to {party}"
        case "received":
            return f"{party} to {own}"
        case "elsewhere":
            return f"{party} computes, as it reports"
