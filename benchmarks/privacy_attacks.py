"""The attackers of `benchmarks.privacy` on the gradients that a Collaborator receives.

Each result is an AUC read either way round, so at least 0.5, and of the worst class against the
rest. `History` sees every batch; `worst` gives the worst round of an attack on single rounds.

The attackers over all rounds recognise rows. `averaged` adds up the cosines with the mean clean
gradient of a class, or the products with it, whichever tells more. `known` knows half of all labels
and fits a linear map of a row's mean gradient to them, so it finds the best direction by itself.
`columns` fits its own columns instead, and `columns_and_gradients` both: what the second is above
the first is what gradients tell of a label beyond the columns. `smoothed` knows no labels, and
averages over rows too: it regresses the products on its own columns, which is what learning is, so
no defence with which the party learns can prevent it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from heterofed.privacy.label_attacks import cosine_leak, norm_leak, one_hot, spectral_leak
from heterofed.privacy.scores import aucs


def worst_class(found: Tensor) -> float:
    """The AUC of the worst class, from AUCs [classes]."""
    return float(torch.maximum(found, 1 - found).nan_to_num(0.5).max())


@dataclass
class Seen:
    """What the attacks on single batches found in one round: AUCs [classes] each."""

    norm: list[Tensor] = field(default_factory=list)
    cosine: list[Tensor] = field(default_factory=list)
    spectral: list[Tensor] = field(default_factory=list)


class History:
    """All that the attackers have seen so far, of `rows` rows with these labels."""

    def __init__(self, labels: Tensor, width: int) -> None:
        self._positive = one_hot(labels)
        self._rounds: list[Seen] = []
        self._cosines = torch.zeros(self._positive.shape)
        self._products = torch.zeros(self._positive.shape)
        self._sums = torch.zeros(len(labels), width)

    def begin_round(self) -> None:
        self._rounds.append(Seen())

    def note(self, rows: Tensor, sent: Tensor, clean: Tensor, labels: Tensor) -> None:
        seen, positive = self._rounds[-1], self._positive[rows].float()
        seen.norm.append(norm_leak(sent, labels))
        seen.cosine.append(cosine_leak(sent, labels, clean=clean))
        seen.spectral.append(spectral_leak(sent, labels))
        directions = F.normalize(clean, dim=1).T @ positive / positive.sum(0).clamp_min(1)
        size = sent.square().sum(1).mean().sqrt().clamp_min(1e-30)
        self._cosines[rows] += F.normalize(sent, dim=1) @ directions
        self._products[rows] += sent / size @ directions
        self._sums[rows] += sent / size

    def worst(self, attack: str) -> float:
        found = [torch.stack(getattr(each, attack)).nanmean(0) for each in self._rounds]
        return max(worst_class(each) for each in found)

    def over_rounds(self, columns: Tensor) -> dict[str, float]:
        """The attackers over all rounds; `columns` are the Collaborator's own, [rows, n]."""
        both = torch.cat([columns, self._sums], 1)
        known = torch.rand(len(columns), generator=torch.Generator().manual_seed(0)) < 0.5
        found = {
            "known": self._fitted(self._sums, known),
            "columns": self._fitted(columns, known),
            "columns_and_gradients": self._fitted(both, known),
        }
        scores = predicted(columns, self._products, torch.ones(len(columns), dtype=torch.bool))
        averaged = max(
            worst_class(aucs(each, self._positive)) for each in (self._cosines, self._products)
        )
        found |= {"averaged": averaged, "smoothed": worst_class(aucs(scores, self._positive))}
        return {f"{name}_leak_auc": value for name, value in found.items()}

    def _fitted(self, inputs: Tensor, known: Tensor) -> float:
        """The AUC on rows whose labels are not known, of a linear map fitted to the others."""
        scores = predicted(inputs, self._positive.float(), known)
        return worst_class(aucs(scores[~known], self._positive[~known]))


def predicted(inputs: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Ridge regression of targets [rows, n] on standardised inputs, fitted on the known rows."""
    wide = (inputs - inputs.mean(0)) / inputs.std(0).clamp_min(1e-12)
    rows, middle = wide[known].double(), targets[known].double().mean(0)
    moments = rows.T @ rows / len(rows) + 1e-3 * torch.eye(rows.shape[1], dtype=torch.float64)
    slopes = torch.linalg.solve(moments, rows.T @ (targets[known].double() - middle) / len(rows))
    found: Tensor = wide @ slopes.float()
    return found
