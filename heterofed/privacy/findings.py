"""What the attacks of a leak report found, as numbers and in plain words. Knows no tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

KNOWN_LABELS = 40
"""That an attacker is taken to have, where an attack needs some."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One measured leak.

    Attributes:
        party: the Collaborator that could read labels, or "the Host", that could read inputs.
        attack: its name.
        measure: "auc" (0.5: nothing, 1: everything), "r2" or "correlation" (0 to 1).
        value: the value of the measure; an AUC is of the class that is read best, either way round.
        samples: batches, or for attacks at the end rows, that it is taken from.
    """

    party: str
    attack: str
    measure: Literal["auc", "r2", "correlation"]
    value: float
    samples: int

    @property
    def severity(self) -> float:
        """0: nothing leaks, 1: all does."""
        return 2 * self.value - 1 if self.measure == "auc" else self.value

    def words(self) -> str:
        """For people."""
        name, what = WORDS[self.attack]
        level = next(text for least, text in LEVELS if self.severity >= least)
        return f"{name} {self.value:.2f}: {self.party} {level} {what}"


LEVELS = (
    (0.8, "can read"),
    (0.4, "can guess much of"),
    (0.2, "can guess some of"),
    (-math.inf, "learns little of"),
)
WORDS = {
    "norm": ("label AUC from gradient norms", "the labels"),
    "cosine": ("label AUC from gradient directions", "the labels"),
    "spectral": ("label AUC from the gradients' spectrum", "the labels"),
    "completion": (f"label AUC from embeddings and {KNOWN_LABELS} known labels", "the labels"),
    "ridge": ("share of the inputs' variance that a linear map rebuilds", "the inputs"),
    "decoder": ("share of the inputs' variance that a trained decoder rebuilds", "the inputs"),
    "distance_correlation": ("distance correlation of inputs and embeddings", "the inputs"),
}


def worst_of(leaks: list[Leak]) -> list[Leak]:
    """For each party the leak that tells most."""
    found: dict[str, Leak] = {}
    for leak in leaks:
        if leak.party not in found or leak.severity > found[leak.party].severity:
            found[leak.party] = leak
    return list(found.values())
