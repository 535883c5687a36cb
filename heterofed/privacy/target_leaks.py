"""Measures what the Host's gradients reveal of labels that are no classes: amounts, or several
labels of a row.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from heterofed.privacy.findings import Leak
from heterofed.privacy.input_attacks import ridge_reconstruction
from heterofed.privacy.label_attacks import flat
from heterofed.privacy.leakage import Budget, Kept, Means, not_below_zero, told
from heterofed.reporting.diagnostics import Harmless

ATTACK = "regression"
COST = 0.005
"""The expected time in seconds of the first attack."""

GRADIENT_PARTS, EMBEDDING_PARTS = 4, 8
"""The principal components of gradients and of embeddings that the attack uses."""

LEAST_ROWS = 4 * (GRADIENT_PARTS + EMBEDDING_PARTS)
"""The rows below which a regression fits anything."""


class TargetLeaks:
    """Rebuilds labels by a linear regression on what a Collaborator sent and got.

    The gradient of a row is the error of the model times a vector that hardly depends on the row,
    and the prediction depends on the embeddings. So both together are close to the label. The
    attacker knows the labels of every other row.

    Args:
        budget: the time budget.
        harmless: reports attacks that fail, while the others continue.
    """

    def __init__(self, budget: Budget, harmless: Harmless | None = None) -> None:
        self._budget = budget
        self._harmless = harmless or Harmless()
        self._means = Means()
        self._kept: dict[str, tuple[Kept, Kept]] = {}
        self._measured: set[str] = set()

    @property
    def is_used(self) -> bool:
        """Whether a batch came with such labels."""
        return bool(self._kept)

    def has_time(self) -> bool:
        """Return whether to look at the next batch: there is time, or a party was not measured
        yet.
        """
        if self._budget.effort == "off":
            return False
        return len(self._measured) < len(self._kept) or self._budget.allows(ATTACK, COST)

    def note(self, party: str, sent: Tensor, targets: Tensor, embeddings: Tensor) -> None:
        """Take one batch as a Collaborator gets it, and measure it if there is time.

        Args:
            party: the Collaborator.
            sent: the gradients as they are sent, of shape [rows, d].
            targets: the labels of the rows, floats of shape [rows, labels].
            embeddings: the embeddings that the Collaborator sent, of shape [rows, e].
        """
        gradients, others = self._kept.setdefault(party, (Kept(), Kept()))
        gradients.add(flat(sent), targets.to(sent.device))
        others.add(flat(embeddings), targets.to(embeddings.device))
        if gradients.rows >= LEAST_ROWS and self._budget.allows(ATTACK, COST):
            self._measure(party)

    def end_round(self) -> list[Leak]:
        """Return the leaks that the samples of the round show."""
        for party, (kept, _) in self._kept.items():
            if party not in self._measured and kept.rows >= LEAST_ROWS:
                self._measure(party)
        return [
            Leak(party, attack, "r2", mean, count)
            for party, attack, means, count in self._means.taken()
            for mean in means
        ]

    def at_end(self) -> list[Leak]:
        """Return nothing; there is no attack for the end of a run."""
        return []

    def _measure(self, party: str) -> None:
        def attack() -> None:
            with self._harmless(told(ATTACK)):
                (gradients, targets), (embeddings, _) = (each.last() for each in self._kept[party])
                rows = min(len(gradients), len(embeddings))
                seen = [
                    _components(gradients[-rows:], GRADIENT_PARTS),
                    _components(embeddings[-rows:].to(gradients.device), EMBEDDING_PARTS),
                ]
                found = ridge_reconstruction(targets[-rows:], torch.cat(seen, dim=1))
                self._means.add(party, ATTACK, {0: not_below_zero(found.r2)})

        self._measured.add(party)
        with torch.no_grad():
            self._budget.timed(ATTACK, functools.partial(attack))


def _components(rows: Tensor, count: int) -> Tensor:
    """Return the first principal components of rows, each with the variance 1."""
    centred = rows.double() - rows.double().mean(0)
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    used = (sizes > 1e-9 * sizes[:1].clamp_min(1e-300))[:count]
    found: Tensor = left[:, :count][:, used] * len(rows) ** 0.5
    return found
