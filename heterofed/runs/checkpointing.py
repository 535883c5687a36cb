"""Writes the checkpoints of a run, and resumes the run from one.

A party that was killed and a party that only rolls back do the same: they connect to the others,
agree on the newest checkpoint that all hold, and load it.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from msgspec import structs

from heterofed.compute.alignment import keyed_digest
from heterofed.compute.own_ids import checked
from heterofed.compute.packed_ids import PackedIds, packed
from heterofed.errors import CheckpointError, ConfigError, LocalProtocolError, ResumeError
from heterofed.events import Resumed
from heterofed.metrics import NEVER_CUT
from heterofed.protocol.messages import Mark
from heterofed.rendezvous.agreement import AT_SPLIT
from heterofed.reporting import console
from heterofed.runs import checkpoint_format as snapshots
from heterofed.runs.checkpoint_format import Snapshot
from heterofed.runs.checkpoint_part import CheckpointPart
from heterofed.runs.checkpoint_store import Split
from heterofed.runs.hook_calls import HookCalls
from heterofed.runs.model_files import ModelFiles
from heterofed.runs.models import ModelRegistry
from heterofed.runs.return_limit import ReturnLimit
from heterofed.runs.run import Run
from heterofed.runs.user_state import Carried

logger = logging.getLogger("heterofed")


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The sources of a checkpoint's content.

    Attributes:
        models: the models and optimizers.
        files: the files of the models in the results folder.
        carried: the state of the user's other objects.
        parts: the further parts.
        metrics: the keys of the metrics sets that the user's class registered.
        accumulates: whether gradients may wait for the step of a later batch.
    """

    models: ModelRegistry
    files: ModelFiles
    carried: Carried
    parts: Sequence[CheckpointPart]
    metrics: Mapping[str, Sequence[str]]
    accumulates: bool


class Checkpointing:
    """Saves one run of a party, and restores it.

    Args:
        run: the run.
        hooks: the hooks of the user.
        what: the sources of a checkpoint's content.
        limit: the limit on rollbacks.
    """

    def __init__(self, run: Run, hooks: HookCalls, what: Checkpointed, limit: ReturnLimit) -> None:
        self._run, self._hooks, self._what = run, hooks, what
        self._limit = limit
        self._proven: set[str] = set()

    def load_ids(self) -> PackedIds:
        """Return the own ids, and note the digest by which checkpoints are bound to them."""
        ids, ordered = checked(self._hooks.call("load_local_ids"))
        key = self._run.kept_record.key
        self._run.state.own_ids = len(ids), keyed_digest(key, "own ids", ordered)
        return ids

    # -- keeping ---------------------------------------------------------------------------

    def keep_split(self, common: int) -> None:
        """Store the split, and the checkpoint before the first round."""
        run = self._run
        if run.state.own_ids is None:
            raise LocalProtocolError("ids were split before they were loaded")
        count, digest = run.state.own_ids
        split = Split(
            own_count=count,
            own_digest=digest,
            common=common,
            train=packed(run.state.train_ids),
            test=packed(run.state.test_ids),
            is_packed=isinstance(run.state.train_ids, PackedIds),
        )
        run.record = structs.replace(run.kept_record, split=split)
        run.store.begin(run.record)
        optimizers = self._what.models.optimizers()
        for each in optimizers.values():
            snapshots.make_plain(each)
        run.state.kept.hyperparameters = {
            name: snapshots.settings_of(each) for name, each in optimizers.items()
        }
        self.keep()

    def close_round(self, *, best: bool, last: bool) -> None:
        """Complete a round after its test; every party does this."""
        if best:
            self._what.files.save_best()
        self._hooks.call("on_round_end")
        self.keep(last=last)

    def keep(self, *, last: bool = False) -> None:
        """Write the checkpoint after this round or part of a round.

        Raises:
            CheckpointError: the file cannot be written.
        """
        run, what = self._run, self._what
        for part in what.parts:
            part.note(run.state.kept)
        mark = Mark(run.round - 1 if run.batch else run.round, run.batch)
        run.receipt.note(mark)
        # Before the first batch, models are as their hooks make them, which can be repeated.
        things = what.models.stateful() if mark > AT_SPLIT else {}
        if things:
            for each in what.models.optimizers().values():
                snapshots.make_plain(each)
        snapshot = Snapshot(
            round=mark.round,
            batch=mark.batch,
            last=last,
            states={name: snapshots.state_of(thing) for name, thing in things.items()},
            metrics={name: (list(csv.keys), csv.size) for name, csv in run.metrics.items()},
            kept=run.state.kept,
            carried=what.carried.keep(gradients=what.accumulates),
            extra=self._hooks.call("extra_state"),
        )
        # One checkpoint of each kind must load before days of training depend on it.
        proven = things.keys() <= self._proven and mark > AT_SPLIT
        content = snapshots.encode(snapshot, proven=proven)
        run.store.keep(mark, content)
        run.recorder.kept(mark, content)
        self._proven.update(things)
        run.futile = 0

    # -- going on --------------------------------------------------------------------------

    def take_up(self) -> bool:
        """Resume from the checkpoint that all parties hold, and return whether its round was the
        last.

        Raises:
            ResumeError: the own ids or models are not those with which the run began.
        """
        run, mark = self._run, self._run.agreement.resume
        if mark is None:
            raise LocalProtocolError("there is no checkpoint to go on from")
        with run.party.in_phase("resume"):
            snapshot = self._put_back(mark)
            # After the last round nothing is trained again, but rows may be evaluated again.
            if not snapshot.last or run.plan.final_rows:
                self._limit.note_return(console.shown_mark(mark.round, mark.batch))
        run.party.round = run.round
        run.party.emit(Resumed(mark.round, mark.batch))
        return snapshot.last

    def settle(self) -> None:
        """Complete this party's part of a run whose last checkpoint all parties hold."""
        run = self._run
        mark = max(run.store.marks(), default=None)
        snapshot = None if mark is None else self._put_back(mark)
        if snapshot is None or not snapshot.last:
            raise ResumeError(
                f"the run in {run.result.folder} has ended at the other parties, and its last"
                ' checkpoint here is gone or damaged; start all with resume="never" for a new run'
            )
        run.complete = True
        record = run.kept_record
        run.result.run = record.run.hex()
        run.result.note_plan(record.plan)
        self._what.files.save()
        logger.info("the run had ended: its final models are in %s", run.result.folder)

    def _put_back(self, mark: Mark) -> Snapshot:
        """Restore the state of this party at a checkpoint."""
        run, what, split = self._run, self._what, self._run.kept_record.split
        if split is None:
            raise LocalProtocolError("a checkpoint without a split")
        if run.state.own_ids is None:
            self.load_ids()
            _check_own_ids(run, split)
        content = run.store.load(mark)
        snapshot = snapshots.decode(content)
        for part in what.parts:
            part.leave()
        # This comes before the models are made, because they may depend on the ids.
        parts = split.train, split.test
        run.state.train_ids, run.state.test_ids = parts if split.is_packed else map(list, parts)
        self._put_back_models(mark, snapshot)
        run.round, run.batch = mark.round + (mark.batch > 0), mark.batch
        run.result.rounds, run.result.ids = mark.round, split.common
        run.result.train_rows, run.result.test_rows = len(split.train), len(split.test)
        run.state.kept = snapshot.kept
        run.receipt.go_on_from(snapshot.kept.links)
        run.state.is_best = False
        self._cut_metrics(snapshot)
        what.files.name_best()
        run.store.drop_after(mark)
        run.recorder.went_back(mark, content)
        what.carried.put_back(snapshot.carried)
        self._hooks.call("load_extra_state", snapshot.extra)
        for part in what.parts:
            part.take_up()
        return snapshot

    def _put_back_models(self, mark: Mark, snapshot: Snapshot) -> None:
        run, models = self._run, self._what.models
        restarted = run.state.kept.hyperparameters is None
        run.round = 0  # hooks make the models as they did at first
        if mark == AT_SPLIT:
            models.forget()
        things, optimizers = models.stateful(), models.optimizers()
        if restarted:
            self._what.carried.begin()
            before = snapshot.kept.hyperparameters or {}
            snapshots.check_optimizers(optimizers, before)
            for name, each in optimizers.items():
                snapshots.bring_back_settings(name, each, before[name])
        if mark > AT_SPLIT:
            for name, thing in things.items():
                snapshots.put_back(name, thing, snapshot.states.get(name, {}))

    def _cut_metrics(self, snapshot: Snapshot) -> None:
        """Remove the rows of rounds that will be trained again."""
        run, registered = self._run, self._what.metrics
        run.open_all_metrics(registered)
        for name, (keys, _) in snapshot.metrics.items():
            if name not in run.metrics:
                self._open_kept(name, keys)
        kept = {NEVER_CUT} - registered.keys()
        for name, metrics in run.metrics.items():
            if name in kept:
                continue
            keys, size = snapshot.metrics.get(name, ([], 0))
            # The user's class may have other columns by now; those that were added later stay.
            own = registered.get(name)
            is_other = own is not None and tuple(keys[: len(own)]) != tuple(own)
            with run.harmless("leakage.csv") if name == "leakage" else nullcontext():
                metrics.cut(size, None if is_other else keys)

    def _open_kept(self, name: str, keys: Sequence[str]) -> None:
        """Open a metrics set that is only in the checkpoint."""
        try:
            self._run.open_metrics(name, keys)
        except ConfigError as error:
            raise CheckpointError(
                f"a checkpoint in {self._run.store.folder} was changed ({error}); bring back the"
                ' one that was written, or start all parties with resume="never"'
            ) from None


def _check_own_ids(run: Run, split: Split) -> None:
    count, digest = run.state.own_ids or (0, b"")
    if hmac.compare_digest(digest, split.own_digest):
        return
    was = f"{split.own_count} ids then, {count} now" if count != split.own_count else "as many"
    raise ResumeError(
        f"load_local_ids gives other ids than when the run began ({was}); bring back those, or"
        ' start all parties with resume="never"'
    )
