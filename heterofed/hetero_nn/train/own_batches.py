"""Reads and checks the batches that this party's feature hooks yield, each on its own stream."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from heterofed.compute.autograd import has_weights
from heterofed.compute.batch import Batch, as_batch, rows_of
from heterofed.compute.freshness import Freshness
from heterofed.compute.packed_ids import kept
from heterofed.compute.streams import streamed
from heterofed.compute.tensors import named
from heterofed.errors import ConfigError
from heterofed.hetero_nn.models import HalfModels
from heterofed.hetero_nn.settings import HalfSettings
from heterofed.hetero_nn.train.signature_keeper import SignatureKeeper
from heterofed.privacy.passes import Kind, Pass
from heterofed.runs.hook_streams import SeededHooks
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")

TRAINS, TESTS = "iterate_train_feature", "iterate_test_feature"
LOOKS = "iterate_final_feature"

KINDS: dict[str, Kind] = {
    TRAINS: "train",
    TESTS: "test",
    LOOKS: "test",
    "iterate_predict_feature": "predict",
}
"""The purpose of the rows of each feature hook."""

Around = Callable[[Iterable[Any]], Iterator[Any]]


class OwnBatches:
    """The batches that the feature hooks of one party yield in one run.

    Args:
        owner: the scheduler with the hooks.
        run: the run in which they are called.
        hooks: calls the hooks with notes on errors and on random streams.
        models: the models, of which the hooks get the feature model.
        settings: the settings of the party.
        signature: records the form of batches, or compares it.

    Attributes:
        has_no_graph: whether trainable features came without a graph, which was reported.
    """

    def __init__(
        self,
        owner: object,
        run: Run,
        hooks: SeededHooks,
        models: HalfModels,
        settings: HalfSettings,
        signature: SignatureKeeper,
    ) -> None:
        self._owner, self._run, self._hooks = owner, run, hooks
        self._models, self._settings = models, settings
        self._signature = signature
        self._fresh: Freshness | None = None
        self.has_no_graph = False

    def of(
        self,
        hook: str,
        ids: Iterable[str],
        *,
        grad: bool,
        with_labels: bool | None,
        around: Around | None = None,
        first: int = 0,
    ) -> Generator[Batch, None, None]:
        """Call a feature hook.

        Args:
            hook: the name of the hook.
            ids: the ids that the hook is called with.
            grad: whether the hook computes with gradients.
            with_labels: whether labels are required; see `as_batch`.
            around: wraps the iteration of the hook.
            first: the number of the first batch.

        Yields:
            The batches of the hook.

        Raises:
            ConfigError: the hook is not a generator.
            FeatureError: the hook yielded something that is not allowed.
        """
        run, ids = self._run, kept(ids)
        run.passing = Pass(KINDS[hook], ids)
        fresh = self._freshness() if grad and hook == TRAINS else None
        making = nullcontext if fresh is None else fresh.making
        with self._hooks.inside(hook), making():
            items = self._items(hook, ids)
            items = around(items) if around is not None else items
        path = (self._settings.feature_key, hook, run.round)
        steps = streamed(items, run.seed, *path, grad=grad, first=first)
        where = f"{hook} of {self._settings.shown_name}"
        for number in itertools.count(first):
            run.party.batch = number
            with self._hooks.inside(hook), making():
                try:
                    item = next(steps)
                except StopIteration:
                    return
            batch = as_batch(item, where, with_labels=with_labels)
            del item
            self._check(batch, hook, number, where, fresh)
            yield batch
            del batch  # frees it before the next one is made

    def _items(self, hook: str, ids: Sequence[str]) -> Iterator[Any]:
        items = getattr(self._owner, hook)(self._models.feature_model, kept(ids))
        if hasattr(items, "__next__"):
            return items  # type: ignore[no-any-return]
        # The rows of one tensor are no batches: it was returned, where it should be yielded.
        if not hasattr(items, "__iter__") or isinstance(items, Tensor | Mapping | str):
            raise ConfigError(
                f"{hook} must be a generator of batches, and it returned a"
                f" {type(items).__name__}; write `yield` in place of `return`"
            )
        return iter(items)

    def _check(
        self, batch: Batch, hook: str, number: int, where: str, fresh: Freshness | None
    ) -> None:
        """Check a batch before it is used: its graph, its form, and how its rows were drawn."""
        if fresh is not None and batch.features is not None:
            tensors = named(batch.features, where)[1]
            fresh.check(tensors, number)
            self._tell_of_no_graph(tensors)
        self._signature.compare_features(batch, hook)
        defence, state = self._settings.weights_defence, self._run.state
        if defence is not None and hook == TRAINS:
            drawn = state.sampling if state.sampled_round == self._run.round else None
            defence.check_sampling(drawn, number, rows_of(batch, where))

    def _freshness(self) -> Freshness:
        if self._fresh is None:
            name = f"{TRAINS} of {self._settings.shown_name}"
            self._fresh = Freshness(name, self._models.feature_weights)
        return self._fresh

    def _tell_of_no_graph(self, features: Mapping[str, Tensor]) -> None:
        if self.has_no_graph or any(each.requires_grad for each in features.values()):
            return
        if has_weights(self._models.feature_model):
            self.has_no_graph = True
            logger.warning(
                "what iterate_train_feature yields has no graph, so this party does not train:"
                " yield what feature_model returns, not detached, and not computed under"
                " torch.no_grad, or pass is_feature_trainable=False"
            )
