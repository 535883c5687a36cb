"""Trains a model on one party's columns, with labels or with the scores of another model.

A model that learns the scores of one that has more columns is given what those columns say of each
train row, which a label says only roughly (generalised distillation: Lopez-Paz et al., 2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from heterofed.tabular.models import Half, HalfPlan, Top, TopPlan, make_optimizer
from heterofed.tabular.objectives import Objective
from heterofed.tabular.schedule import factor, set_rate
from heterofed.tabular.settings import Settings
from heterofed.tabular.table import LocalTable
from heterofed.tabular.targets import EarlyStopping

LOOKED_AT = 4096
"""The number of rows in a batch that is not trained on."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """Rows of a table, and what a model is to say of them.

    Attributes:
        ids: the ids of the rows, which the table has loaded.
        targets: the labels as `Labels.encode` returns them, or scores as `Objective.scores`
            returns them.
        weights: the weights of the rows, [rows].
    """

    ids: Sequence[str]
    targets: Tensor
    weights: Tensor

    def at(self, rows: Tensor) -> Lesson:
        """Return some of the rows, [chosen] int64, in their order."""
        ids = [self.ids[at] for at in rows.tolist()]
        targets = self.targets.index_select(0, rows)
        return Lesson(ids, targets, self.weights.index_select(0, rows))


class Student:
    """A half and a model on top that read the columns of one party.

    Args:
        half: the description of the half.
        top: the description of the model on top of it.
    """

    def __init__(self, half: HalfPlan, top: TopPlan) -> None:
        self.half, self.top = Half(half), Top(msgspec.structs.replace(top, parties=1))

    def outputs(self, table: LocalTable, ids: Sequence[str], size: int) -> Iterator[Tensor]:
        """Yield the outputs of rows that the table has loaded, in batches of a size."""
        for batch in table.batches(ids, size):
            yield self.top({"": self.half(batch.inputs)})

    @torch.no_grad()
    def judged(self, table: LocalTable, ids: Sequence[str]) -> Tensor:
        """Return the outputs of rows for which nothing is learnt, [rows, outputs]."""
        self._train(False)
        return torch.cat(list(self.outputs(table, ids, LOOKED_AT)))

    def learn(
        self,
        table: LocalTable,
        objective: Objective,
        lesson: Lesson,
        check: Lesson,
        *,
        batch_size: int,
        patience: int,
    ) -> None:
        """Train until the loss of the rows of `check` gets no better, and keep the best weights.

        Args:
            table: the table, which has loaded the rows of both lessons.
            objective: how outputs are compared with targets.
            lesson: the rows to train on.
            check: the rows that stop the training.
            batch_size: the number of rows in a step.
            patience: the number of rounds without a better loss after which training stops.
        """
        given = Settings.read(self.half.plan.settings) if self.half.plan else Settings()
        both = torch.nn.ModuleList([self.half, self.top])
        optimizer = make_optimizer(both, lr=given.learning_rate, weight_decay=given.weight_decay)
        stopping, best = EarlyStopping(patience), _copied(both)
        steps = -(-len(lesson.ids) // batch_size)
        for number in range(given.rounds):
            self._train(True)
            shuffled = lesson.at(torch.randperm(len(lesson.ids)))
            start = 0
            for step, outputs in enumerate(self.outputs(table, shuffled.ids, batch_size)):
                share = factor(given.schedule, number * steps + step, given.rounds * steps)
                set_rate(optimizer, given.learning_rate * share)
                some = slice(start, start := start + len(outputs))
                loss = objective.loss(outputs, shuffled.targets[some], shuffled.weights[some])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            outputs = self.judged(table, check.ids)
            loss = objective.loss(outputs, check.targets, check.weights)
            if stopping.note(float(loss), number + 1):
                best = _copied(both)
            elif stopping.is_over(number + 1):
                break
        both.load_state_dict(best)

    def _train(self, mode: bool) -> None:
        self.half.train(mode)
        self.top.train(mode)


def _copied(models: torch.nn.Module) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in models.state_dict().items()}
