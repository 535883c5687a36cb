"""Counts what a party has sent, for its compliance officer: `outbound.csv` in the results folder.

This module counts messages and bytes by phase, kind and receiver. It knows nothing of their
content.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from pathlib import Path

COLUMNS = ("phase", "kind", "holds", "to", "messages", "bytes")

HOLDS = {
    "PsiKey": "public key of the intersection",
    "PsiBlinded": "blinded ids",
    "PsiSigned": "blinded ids of the other, signed",
    "PsiTags": "keyed hashes of own ids",
    "PsiMatched": "proofs of common ids",
    "CountBlinded": "blinded ids",
    "CountRaised": "blinded ids of the other, raised",
    "CountOwn": "blinded ids",
    "CountResult": "how many ids are common",
    "StoredFilter": "keyed hashes of own ids",
    "StoredBlinded": "blinded ids",
    "StoredEvaluated": "blinded ids of the other, evaluated",
    "StoredClaims": "proofs of common ids",
    "StoredReplies": "proofs of common ids",
    "SplitParts": "which common ids are train and test ids",
    "SplitPlan": "keyed digests of the split",
    "PredictPlan": "keyed digest of common ids",
    "ServePlan": "keyed digest of common ids",
    "ServeRequest": "numbers of common rows",
    "ServeAnswer": "features at the cut layer",
    "SiteRows": "numbers of rows",
    "SiteShare": "gradients or weights, masked",
    "SiteSum": "sum of masked gradients or weights",
    "Features": "features at the cut layer",
    "Gradients": "gradients of the other's features",
    "Findings": "results of the evaluation",
    "ModelLayout": "layout of the model, and its weights where the Host asked",
    "InitialWeights": "weights of the model",
    "Update": "weights or gradients of the model",
    "Average": "averaged weights of the model",
    "Scores": "results of a test on own rows",
}
"""The content of each kind of message; all other kinds hold names, numbers and settings."""

GREETINGS = frozenset({"Hello", "Terms", "Welcome", "Waiting", "Abort"})
"""The messages of an attempt to connect, which are sent even if it fails."""


class Egress:
    """Counts the messages that this party has sent."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])

    def note(self, phase: str, kind: str, to: str, size: int) -> None:
        """Count one message of `size` bytes, with its header."""
        row = self._rows[phase, kind, to]
        row[0] += 1
        row[1] += size

    def renamed(self, before: str, now: str) -> None:
        """Book what was sent to a party under another name to its own."""
        for phase, kind, to in [key for key in self._rows if key[2] == before]:
            messages, size = self._rows.pop((phase, kind, to))
            row = self._rows[phase, kind, now]
            row[0] += messages
            row[1] += size

    @property
    def is_worth_a_file(self) -> bool:
        """Whether any message but greetings was sent."""
        return any(kind not in GREETINGS for _, kind, _ in self._rows)

    def table(self, path: Path) -> bytes:
        """Return the counts as CSV, added to those of the same run that `path` already holds."""
        for row in _read(path):
            here = self._rows[row["phase"], row["kind"], row["to"]]
            here[0] += int(row["messages"])
            here[1] += int(row["bytes"])
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for (phase, kind, to), counts in self._rows.items():
            writer.writerow([phase, kind, HOLDS.get(kind, "control"), to, *counts])
        return text.getvalue().encode()


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
