"""Defines the loss and the scores of each kind of task, from the outputs of a model for each
row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.objectives.labels import Kind, Labels
from heterofed.tabular.objectives.values import Class, as_series, numbers_of, refuse_rows

ClassWeights = Literal["balanced"] | Mapping[Any, float] | None

MOST_LOG_RATE = 30.0
"""The largest logarithm of a Poisson rate, beyond which float32 soon overflows."""


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """The objective that a model learns from labels.

    Make it from a reading of labels, and `fit` it to the labels of the train rows.
    `msgspec.to_builtins` converts it to plain data to be kept with a model.

    Attributes:
        labels: how labels are read.
        class_weights: the weight of each class (multi-label: of the ones of each label); empty for
            equal weights.
        centre: in a regression, the mean of the train labels; for counts, the logarithm of their
            mean.
        scale: in a regression, the standard deviation of the train labels.
        mean_weight: the mean of the sample weights over the train rows.
    """

    labels: Labels
    class_weights: tuple[float, ...] = ()
    centre: float = 0.0
    scale: float = 1.0
    mean_weight: float = 1.0

    @property
    def kind(self) -> Kind:
        """The kind of the task."""
        return self.labels.kind

    @property
    def classes(self) -> tuple[Class, ...]:
        """The classes in the order of their codes; empty for numbers."""
        return self.labels.classes

    @property
    def outputs(self) -> int:
        """The number of outputs of the model for a row."""
        return len(self.classes) if self.kind in ("multiclass", "multilabel") else 1

    def fit(
        self, labels: Tensor, weights: Tensor | None = None, *, class_weights: ClassWeights = None
    ) -> Objective:
        """Return the same objective, scaled to the train rows; no other rows may be given.

        Args:
            labels: the labels of the train rows, as `Labels.encode` returns them.
            weights: the sample weights of the train rows, [rows].
            class_weights: "balanced" for equal total weights of all classes; or a weight by class.

        Raises:
            ConfigError: the class weights do not fit the task.
            ColumnError: the train rows have only one class, or no weight.
        """
        weighed = torch.ones(len(labels)) if weights is None else weights.float()
        mean_weight = float(weighed.mean())
        if self.kind in ("regression", "counts"):
            if class_weights is not None:
                raise ConfigError(f"class weights are for classes; this is a {self.kind} task")
            return msgspec.structs.replace(
                self, mean_weight=mean_weight, **self._location(labels, weighed)
            )
        counts = self._class_counts(labels, weighed)
        if self.kind == "binary" and not (counts > 0).all():
            raise ColumnError(
                f"column {self.labels.column!r}: all train rows are of one class; take another"
                " split (a stratified one), or more rows"
            )
        return msgspec.structs.replace(
            self,
            mean_weight=mean_weight,
            class_weights=self._weights(counts, float(weighed.sum()), class_weights),
        )

    def loss(
        self,
        outputs: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        *,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> Tensor:
        """Return the loss of a batch.

        It is logistic for binary and multi-label tasks, cross-entropy for several classes, the
        squared error of labels scaled to variance 1 for a regression, and Poisson for counts.

        Rows count with their weight (and the weight of their class) divided by the mean weight of
        the train rows, and not by that of the batch. So the expected step is that of all train
        rows, whatever batch contains a row of large weight.

        Args:
            outputs: the outputs of the model, [rows, outputs], or [rows] if there is one.
            labels: the labels as `Labels.encode` returns them.
            weights: the sample weights, [rows].
            reduction: how rows are combined.
        """
        each = self._losses(outputs, labels)
        if weights is not None:
            each = each * (weights.to(each) / self.mean_weight)
        return each.mean() if reduction == "mean" else each.sum()

    def scores(self, outputs: Tensor) -> Tensor:
        """Return the scores of outputs.

        They are probabilities (binary [rows], of the positive class; multi-class and multi-label
        [rows, classes]), or the expected number [rows].
        """
        if self.kind == "multiclass":
            return outputs.softmax(dim=1)
        if self.kind == "multilabel":
            return outputs.sigmoid()
        flat = _flat(outputs)
        if self.kind == "binary":
            return flat.sigmoid()
        if self.kind == "counts":
            return (flat + self.centre).clamp(max=MOST_LOG_RATE).exp()
        return flat * self.scale + self.centre

    def predictions(self, outputs: Tensor) -> dict[str, Tensor]:
        """Return the scores of outputs by the name of their column, each of shape [rows]."""
        scores = self.scores(outputs)
        if self.kind in ("multiclass", "multilabel"):
            return {f"probability {name}": scores[:, at] for at, name in enumerate(self.classes)}
        return {"probability" if self.kind == "binary" else "prediction": scores}

    def codes(self, scores: Tensor, threshold: float = 0.5) -> Tensor:
        """Return the predicted codes of scores, int64; numbers are returned unchanged."""
        if self.kind == "multiclass":
            return scores.argmax(dim=1)
        return (scores >= threshold).long() if self.classes else scores

    def _losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        weights = outputs.new_tensor(self.class_weights) if self.class_weights else None
        if self.kind == "multiclass":
            return functional.cross_entropy(outputs, labels, weights, reduction="none")
        if self.kind == "multilabel":
            losses = functional.binary_cross_entropy_with_logits(
                outputs, labels.to(outputs), reduction="none", pos_weight=weights
            )
            return losses.mean(dim=1)
        flat, labels = _flat(outputs), labels.to(outputs)
        if self.kind == "counts":
            rate = (flat + self.centre).clamp(max=MOST_LOG_RATE)
            return functional.poisson_nll_loss(rate, labels, log_input=True, reduction="none")
        if self.kind == "regression":
            return (flat - (labels - self.centre) / self.scale).square()
        each = functional.binary_cross_entropy_with_logits(flat, labels, reduction="none")
        return each if weights is None else each * weights[labels.long()]

    def _location(self, labels: Tensor, weights: Tensor) -> dict[str, float]:
        values, weights = labels.double(), weights.double()
        mean = float((values * weights).sum() / weights.sum())
        if self.kind == "counts":
            return {"centre": math.log(max(mean, 1e-6))}
        variance = float(((values - mean).square() * weights).sum() / weights.sum())
        return {"centre": mean, "scale": math.sqrt(variance) or 1.0}

    def _class_counts(self, labels: Tensor, weights: Tensor) -> Tensor:
        """Return the weight of the rows of each class (multi-label: of each label's ones),
        [classes].
        """
        if self.kind == "multilabel":
            return weights.double() @ labels.double()
        codes = labels.long()
        return torch.bincount(codes, weights.double(), minlength=len(self.classes))

    def _weights(self, counts: Tensor, total: float, given: ClassWeights) -> tuple[float, ...]:
        if given is None:
            return ()
        if isinstance(given, Mapping):
            return self._given_weights(given)
        if given != "balanced":
            raise ConfigError(f"class_weights={given!r}: give 'balanced', or a weight by class")
        if self.kind == "multilabel":  # the ones of a label weigh as much as its zeros
            balanced = (total - counts) / counts.clamp(min=1e-12)
        else:
            balanced = total / (len(self.classes) * counts.clamp(min=1e-12))
        return tuple(torch.where(counts > 0, balanced, 0.0).tolist())

    def _given_weights(self, given: Mapping[Any, float]) -> tuple[float, ...]:
        by_name = {str(name).casefold(): weight for name, weight in given.items()}
        names = [str(each).casefold() for each in self.classes]
        if set(by_name) - set(names):
            raise ConfigError(
                f"class_weights names {sorted(map(str, given))}; the classes are {names}"
            )
        found = [by_name.get(name, 1.0) for name in names]
        if not all(_is_weight(each) for each in found) or not any(found):
            raise ConfigError("class_weights: give finite numbers from 0, and one above it")
        return tuple(map(float, found))


def check_weights(values: Any, column: str = "weight") -> Tensor:
    """Check sample weights, and return them as [rows] float32.

    Raises:
        ColumnError: a row has no weight, or one that is negative or not finite; or all are 0.
    """
    numbers = numbers_of(as_series(values, column), column)
    refuse_rows(numbers < 0, column, "have a negative weight; weights are numbers from 0")
    if not np.any(numbers):
        raise ColumnError(f"column {column!r}: all weights are 0")
    return torch.tensor(numbers, dtype=torch.float32)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _flat(outputs: Tensor) -> Tensor:
    return outputs.squeeze(1) if outputs.ndim == 2 else outputs
