"""Describes what the attacks of a leak report found, as numbers and in words, without tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

KNOWN_LABELS = 40
"""The number of labels that an attacker is assumed to know, for attacks that need some."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One measured leak.

    Attributes:
        party: the Collaborator that could read labels, or "the Host", that could read inputs.
        attack: the name of the attack.
        measure: "auc", where 0.5 means no leak and 1 a full leak, or "r2" or "correlation" from 0
            to 1.
        value: the value of the measure. An AUC is that of the class which is inferred best, and is
            at least 0.5.
        samples: the number of batches that were measured, or of rows for attacks at the end of a
            run.
    """

    party: str
    attack: str
    measure: Literal["auc", "r2", "correlation"]
    value: float
    samples: int

    @property
    def severity(self) -> float:
        """The size of the leak, from 0 (nothing leaks) to 1 (everything leaks)."""
        return 2 * self.value - 1 if self.measure == "auc" else self.value

    def words(self) -> str:
        """Return the leak as a sentence for people."""
        name, what = WORDS[self.attack]
        level = next(text for least, text in LEVELS if self.severity >= least)
        return f"{name} {self.value:.2f}: {self.party} {level} {what}"


LEVELS = (
    (0.8, "can read"),
    (0.4, "can guess much of"),
    (0.2, "can guess some of"),
    (-math.inf, "learns little of"),
)
"""The least severities, in descending order, with the words for them."""

WORDS = {
    "norm": ("label AUC from gradient norms", "the labels"),
    "cosine": ("label AUC from gradient directions", "the labels"),
    "spectral": ("label AUC from the gradients' spectrum", "the labels"),
    "completion": (f"label AUC from embeddings and {KNOWN_LABELS} known labels", "the labels"),
    "regression": (
        "share of the labels' variance that a linear map of gradients and embeddings rebuilds",
        "the labels",
    ),
    "ridge": ("share of the inputs' variance that a linear map rebuilds", "the inputs"),
    "decoder": ("share of the inputs' variance that a trained decoder rebuilds", "the inputs"),
    "distance_correlation": ("distance correlation of inputs and embeddings", "the inputs"),
}
"""The name of each attack's measure, and what the attack reads."""


def worst_of(leaks: list[Leak]) -> list[Leak]:
    """Return the most severe leak of each party."""
    found: dict[str, Leak] = {}
    for leak in leaks:
        if leak.party not in found or leak.severity > found[leak.party].severity:
            found[leak.party] = leak
    return list(found.values())
