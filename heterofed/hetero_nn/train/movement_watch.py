"""Checks that the first round of a run has changed the models that it should train."""

from __future__ import annotations

import logging

from heterofed.compute.movement import Movement
from heterofed.hetero_nn.models import HalfModels
from heterofed.hetero_nn.train.own_batches import OwnBatches
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")

MOVEMENT = "the look at what a round has changed"
UNMOVED = {
    "feature_model": "iterate_train_feature has to yield what the model returns, with its graph (no"
    " torch.no_grad, no detach); the Host's loss has to use these features, and an optimizer made"
    " of this model's parameters to step",
    "infer_model": "train_a_batch has to go backward from a loss that uses the model, and"
    " self.optimizer to step; make_infer_optimizer has to take the parameters of the model that it"
    " is given",
}


class MovementWatch:
    """Compares the models before the first step of a run with those after the first round.

    Args:
        run: the run.
        models: the models of the run.
        batches: the batches of this party, which record whether features have a graph.
    """

    def __init__(self, run: Run, models: HalfModels, batches: OwnBatches) -> None:
        self._run, self._models, self._batches = run, models, batches
        self._has_begun = False
        self._before: Movement | None = None

    def begin(self) -> None:
        """Record the models if no step was made yet."""
        if not self._has_begun:
            self._has_begun = True
            with self._run.harmless(MOVEMENT):
                self._before = Movement(self._models.trained())

    def end_round(self) -> None:
        """Warn after the first round about models that it has not changed."""
        before, self._before = self._before, None
        if before is None:
            return
        with self._run.harmless(MOVEMENT):
            for name in before.unmoved():
                if name == "feature_model" and self._batches.has_no_graph:
                    continue  # this was already reported
                logger.warning(
                    "no weight of %s changed in round %d: %s", name, self._run.round, UNMOVED[name]
                )
