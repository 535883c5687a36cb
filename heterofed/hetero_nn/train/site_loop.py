"""Runs the training of a site of a role, whose feature model all sites of the role train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from heterofed.compute.autograd import has_batch_norm
from heterofed.compute.features import FeatureBatch
from heterofed.errors import ConfigError
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.hooks import CollaboratorHooks
from heterofed.hetero_nn.models import HalfModels
from heterofed.hetero_nn.settings import CollaboratorSettings
from heterofed.hetero_nn.sites.own_rows import OwnRows, check_batch
from heterofed.hetero_nn.sites.shared_model import SharedModel
from heterofed.hetero_nn.train.collaborator_guard import CollaboratorGuard
from heterofed.hetero_nn.train.collaborator_loop import CollaboratorLoop, InFlight
from heterofed.hetero_nn.train.feature_sender import FeatureFeed
from heterofed.messaging.peer import Mail, Peer
from heterofed.runs.state import Kept


class SiteLoop(CollaboratorLoop):
    """The loop of a site in one run.

    Args:
        owner: the scheduler of the site.
        half: the half of the site.
        settings: the settings of the site.
    """

    def __init__(
        self, owner: CollaboratorHooks, half: Half[HalfModels], settings: CollaboratorSettings
    ) -> None:
        super().__init__(owner, half, settings)
        self._rows = OwnRows(half.run)
        self._shared = SharedModel(half.run, half.models)

    def make_guard(self) -> CollaboratorGuard:
        """See `Loop`.

        Raises:
            ConfigError: the model is none that several sites can train.
        """
        model = self._models.feature_model
        if self._settings.is_feature_trainable and has_batch_norm(model):
            raise ConfigError(
                "make_feature_model: BatchNorm takes its means over the rows of a batch, of which a"
                " site has only some; use GroupNorm or LayerNorm, or no normalisation"
            )
        return super().make_guard()

    def begin(self) -> None:
        """Take the weights of the first site; the models are made, and nothing is trained yet."""
        with self._run.party.in_phase("split"):
            self._shared.begin()

    def take_rows(self, mail: Mail, host: Peer) -> None:
        """See `CollaboratorLoop`."""
        self._rows.take(mail, host.name)

    def train_a_leg(self, host: Peer, first: int, most: int | None = None) -> int:
        """See `CollaboratorLoop`."""
        if self._settings.is_feature_trainable:
            self._shared.begin_leg()
        return super().train_a_leg(host, first, most)

    def leg_ids(self, first: int) -> Sequence[str]:
        """Return the ids of this site from batch `first` on up to the next checkpoint."""
        every, order = self._run.plan.checkpoint_batches, self._half.round_ids()
        end = self._rows.start(first + every) if every else len(order)
        return order[self._rows.start(first) : end]

    def is_round_trained(self, next_leg: int) -> bool:
        """See `CollaboratorLoop`."""
        return not (self._run.plan.checkpoint_batches and self._rows.counts(next_leg, None))

    # -- within ------------------------------------------------------------------------------

    def _features(
        self, hook: str, ids: Sequence[str], first: int, most: int | None
    ) -> Iterator[FeatureBatch]:
        """Yield a batch for each batch of the Host; it has no tensors if this site has no rows."""
        run, party = self._run, self._run.party
        every = run.plan.checkpoint_batches if run.party.phase == "train" else 0
        counts = self._rows.counts(first, every or None)
        run.batch_rows, counts = counts, counts[:most]
        own: Iterator[FeatureBatch] = iter(())
        if ids:  # otherwise user code might not expect to be called
            own = super()._features(hook, ids, first, None)
        for number, count in enumerate(counts, first):
            if not count:
                yield FeatureBatch("tensor", {}, [])
                continue
            batch = next(own, None)
            rows = None if batch is None else batch.rows
            check_batch(hook, party.name, number, rows, count)
            if batch is not None:
                yield batch
            del batch  # frees it before the next one is made
        if most is None and (further := next(own, None)) is not None:
            check_batch(hook, party.name, first + len(counts), further.rows, 0)

    def _update(self, feed: FeatureFeed, batch: InFlight) -> None:
        """Step on the sum of all sites' gradients; or alone, and then average if that is due."""
        plan, number = self._run.plan, batch.number
        if plan.sites_share == "weights":
            super()._update(feed, batch)
            self._shared.count(batch.features.rows)
            if plan.next_sum(number, self._rows.batches) == number:
                self._shared.average(self._run.round, number)
            return
        for each in self._models.feature_weights():
            each.grad = None
        self._take_gradients(feed, batch)
        if self._shared.add_up_gradients(self._run.round, number):
            hook = "update_feature_model"
            self._hooks.call_as(hook, self._models.feature_optimizer.step)

    # -- as a part of checkpoints ------------------------------------------------------------

    def note(self, kept: Kept) -> None:
        """See `CheckpointPart`."""
        self._shared.note(kept)

    def take_up(self) -> None:
        """See `CheckpointPart`."""
        self._shared.take_up()
