"""Defines one party's half of a task in one run, with its hooks, models and batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from heterofed.compute.alignment import SortedIdSet, round_order, shuffled, sorted_by_lot
from heterofed.compute.autograd import evaluating
from heterofed.compute.packed_ids import OrderedIds, PackedIds
from heterofed.compute.plain import strings
from heterofed.hetero_nn.hooks import PartyHooks, half_engine
from heterofed.hetero_nn.models import HalfModels
from heterofed.hetero_nn.settings import HalfSettings
from heterofed.hetero_nn.train.own_batches import OwnBatches
from heterofed.hetero_nn.train.row_order import RowOrder
from heterofed.hetero_nn.train.signature_keeper import SignatureKeeper
from heterofed.runs.checkpoint_part import CheckpointPart
from heterofed.runs.extra_modules import modules_beside
from heterofed.runs.hook_streams import SeededHooks
from heterofed.runs.model_files import ModelFiles
from heterofed.runs.run import Run

M = TypeVar("M", bound=HalfModels)


class Half(Generic[M]):
    """The objects that every loop of a party needs in one run.

    The run gets the models too, so that hooks can use them.

    Args:
        owner: the scheduler whose hooks are called.
        run: the run.
        models: the class of the half's models.

    Attributes:
        hooks: calls the owner's hooks with notes on errors and under their own random streams.
        batches: the batches that the feature hooks yield.
        signature: a description of the inputs of the feature hooks.
        order: proofs that the rows of all parties have the same ids.
    """

    def __init__(self, owner: PartyHooks, run: Run, models: type[M]) -> None:
        self.owner, self.run = owner, run
        self.settings: HalfSettings = half_engine(owner).settings
        key, name = self.settings.feature_key, self.settings.shown_name
        self.hooks = SeededHooks(owner, run, key, name)
        self.models = models(self.hooks, self.settings)
        self.models.exchange = half_engine(owner).exchange
        self.signature = SignatureKeeper(owner, run, self.hooks, name)
        self.batches = OwnBatches(
            owner, run, self.hooks, self.models, self.settings, self.signature
        )
        self.order = RowOrder(run, owner)
        run.models, run.around_hooks = self.models, self.signature.reading

    def files(self, parts: Sequence[CheckpointPart] = ()) -> ModelFiles:
        """Return the models in the results folder; `parts` write their files beside the
        signature.
        """
        return ModelFiles(self.run, self.models, self.owner, [self.signature, *parts])

    def round_ids(self) -> Sequence[str]:
        """Return the train ids in the agreed order of this round."""
        plan, ids = self.run.plan, self.run.state.train_ids
        if plan.sites and plan.shuffle:
            return sorted_by_lot(ids, seed=plan.seed, round_number=self.run.round)
        if isinstance(ids, PackedIds):
            if not plan.shuffle:
                return ids
            order = shuffled(len(ids), seed=plan.seed, round_number=self.run.round)
            return OrderedIds(ids, order)
        return round_order(
            ids,
            seed=plan.seed,
            round_number=self.run.round,
            shuffle=plan.shuffle,
        )

    def leg_ids(self, first: int) -> Sequence[str]:
        """Return the train ids from batch `first` of this round up to the next checkpoint."""
        plan, order = self.run.plan, self.round_ids()
        start, rows = first * plan.batch_size, plan.checkpoint_batches * plan.batch_size
        least, end = plan.limits.min_batch or 0, start + rows
        if start and len(order) - start < least:
            return []  # too few for a batch, so the last one has them too
        if len(order) - end < least:
            end = len(order)
        return order[start:end] if rows else order

    def further_ids(self, common: SortedIdSet, key: int) -> list[str]:
        """Return the ids that `load_further_ids` gives; see `heterofed.intersection.keys`."""
        with self.run.party.in_phase("prepare"):
            return strings(self.hooks.call("load_further_ids", common, key), "load_further_ids")

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Set the models, and modules beside them, to eval mode without gradients within the
        block.
        """
        models = self.models.models()
        with evaluating(*models, *modules_beside(self.owner, models)):
            yield
