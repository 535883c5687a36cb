"""The models of one run and their life on disk: made once, saved, kept in checkpoints, taken up.

A party that was killed and one that only has to go back take the same way: meet the others, agree
on the newest checkpoint that all hold, load it.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from msgspec import structs
from torch import nn
from torch.optim import Optimizer

from heterofed.compute.alignment import check_ids, keyed_digest
from heterofed.compute.autograd import Lazy
from heterofed.compute.joint_optimizer import JointOptimizer
from heterofed.compute.wrappers import plain_state
from heterofed.errors import (
    CheckpointError,
    ConfigError,
    LocalProtocolError,
    ResumeError,
    RollbackLimitError,
)
from heterofed.events import Resumed
from heterofed.files import drop_drafts, own_folder, writing
from heterofed.metrics import NEVER_CUT, registered_metrics
from heterofed.protocol.messages import Mark
from heterofed.rendezvous.agreement import AT_SPLIT
from heterofed.reporting import console
from heterofed.reporting.results import fresh_folder, write_whole
from heterofed.runs import snapshot as snapshots
from heterofed.runs.checkpoint_store import RunRecord, Split
from heterofed.runs.extra_modules import EXTRA, extras_of, save_extras
from heterofed.runs.lifecycle import Scheduler
from heterofed.runs.object_walk import roots_of
from heterofed.runs.run import Run, agreement_of, begin, close_ledger, goes_on, ledger_of, party_of
from heterofed.runs.settings import ReleaseLimits
from heterofed.runs.snapshot import Snapshot
from heterofed.runs.user_state import Carried

logger = logging.getLogger("heterofed")

NOTES = ("staleness", "recorded", "means", "privacy", "signature")
"""What else of `Run.state` a checkpoint keeps: plain values that the loops chose for the run."""


class ResumableScheduler(Scheduler):
    """Base of the schedulers that have models, and so something to lose."""

    _heterofed_limits = ReleaseLimits()
    _heterofed_models: tuple[str, ...] = ()
    """Which of `_heterofed_makers` are models that the results folder gets."""

    # -- hooks -----------------------------------------------------------------------------

    def extra_state(self) -> Any:
        """Hook: state of yours that no checkpoint keeps by itself: of other libraries, or files.

        Returns:
            Tensors and plain values (numbers, strings, lists, dicts of them), or None.
        """
        return None

    def on_round_end(self) -> None:
        """Hook: a round and its test are over; the place for learning-rate schedules."""

    def load_extra_state(self, state: Any) -> None:
        """Hook: the inverse of `extra_state`; called where a run goes on from a checkpoint.

        Args:
            state: what `extra_state` returned when the checkpoint was written.
        """

    # -- models and optimizers -------------------------------------------------------------

    @abstractmethod
    def _heterofed_makers(self) -> dict[str, Callable[[], Any]]:
        """How each model and optimizer of this role is made, by name."""

    def _heterofed_made(self, name: str) -> Any:
        """A model or optimizer of this run, made on first use.

        Raises:
            ConfigError: no run has begun.
        """
        if self._heterofed_run is None:
            raise ConfigError(f"{name} is made when a task is launched; there is none yet")
        made: dict[str, Lazy] = self._heterofed_run.state.setdefault("made", {})
        if name not in made:
            made[name] = Lazy(self._heterofed_makers()[name])
        return made[name]()

    def _heterofed_stateful(self) -> dict[str, nn.Module | Optimizer]:
        """The models and optimizers of this run that there are, made where they were not."""
        things = {name: self._heterofed_made(name) for name in self._heterofed_makers()}
        return {
            name: thing
            for name, thing in things.items()
            if isinstance(thing, nn.Module | Optimizer) and not isinstance(thing, JointOptimizer)
        }

    def _heterofed_load_ids(self, run: Run) -> list[str]:
        """Own ids; what a checkpoint binds them by is noted."""
        ids = check_ids(self._heterofed_call_hook("load_local_ids", self.load_local_ids))
        run.state["own"] = (len(ids), keyed_digest(_record_of(run).key, "own ids", sorted(ids)))
        return ids

    def _heterofed_save_models(self, run: Run, prefix: str = "") -> None:
        """Write each model's `state_dict` to `<prefix><name>.pt`, whole or not at all."""
        for name in self._heterofed_models:
            model = self._heterofed_made(name)
            if model is not None:
                run.result.models[prefix + name] = write_whole(
                    run.result.folder / f"{prefix}{name}.pt",
                    functools.partial(torch.save, plain_state(model)),
                )
        extras = extras_of(self, [self._heterofed_made(name) for name in self._heterofed_models])
        save_extras(run.result.folder / f"{prefix}{EXTRA}.pt", extras)
        run.result.rounds = run.round
        run.result.best_round = run.state.get("best_round", 0)

    # -- keeping ---------------------------------------------------------------------------

    def _heterofed_keep_split(self, run: Run, common: int) -> None:
        """Keep what was agreed about ids, and the checkpoint that the first round begins from."""
        count, digest = run.state["own"]
        split = Split(
            own_count=count,
            own_digest=digest,
            common=common,
            train=run.state["train_ids"],
            test=run.state["test_ids"],
        )
        run.record = structs.replace(_record_of(run), split=split)
        run.store.begin(run.record)
        optimizers = _optimizers(self._heterofed_stateful())
        for each in optimizers.values():
            snapshots.make_plain(each)
        run.state["settings"] = {
            name: snapshots.settings_of(each) for name, each in optimizers.items()
        }
        self._heterofed_keep_checkpoint(run, last=False)

    def _heterofed_close_round(self, run: Run, *, best: bool, last: bool) -> None:
        """What every party does when a round and its test are over."""
        if best:
            with writing(run.result.folder):
                self._heterofed_save_models(run, prefix="best_")
                run.state["best_digest"] = _digest_of(self._heterofed_best_files(run))
            run.state["best_round"] = run.round
        self._heterofed_call_hook("on_round_end", self.on_round_end)
        self._heterofed_keep_checkpoint(run, last=last)

    def _heterofed_keep_checkpoint(self, run: Run, *, last: bool) -> None:
        """Write the checkpoint after this round.

        Raises:
            CheckpointError: it cannot be written.
        """
        mark = Mark(run.round - 1 if run.batch else run.round, run.batch)
        # Before the first batch they are as their hooks make them, again and again.
        things = self._heterofed_stateful() if mark > AT_SPLIT else {}
        for each in _optimizers(things).values():
            snapshots.make_plain(each)
        snapshot = Snapshot(
            round=mark.round,
            batch=mark.batch,
            last=last,
            best=run.state.get("best_round", 0),
            best_digest=run.state.get("best_digest", ""),
            states={name: snapshots.state_of(thing) for name, thing in things.items()},
            settings=run.state["settings"],
            metrics={name: (list(csv.keys), csv.size) for name, csv in run.metrics.items()},
            notes={name: run.state[name] for name in NOTES if name in run.state},
            carried=self._heterofed_carried(run).keep(gradients=self._heterofed_accumulates()),
            extra=self._heterofed_call_hook("extra_state", self.extra_state),
        )
        # One of each kind has to load again before days of training depend on it.
        proven = things.keys() <= run.state.setdefault("proven", set()) and mark > AT_SPLIT
        run.store.keep(mark, snapshots.encode(snapshot, proven=proven))
        run.state["proven"].update(things)
        run.futile = 0

    def _heterofed_carried(self, run: Run) -> Carried:
        """What the user carries beside the models and optimizers."""
        if "carried" not in run.state:
            covered = type(self).extra_state is not ResumableScheduler.extra_state
            run.state["carried"] = Carried(self._heterofed_roots, self._heterofed_known, covered)
        carried: Carried = run.state["carried"]
        return carried

    def _heterofed_known(self) -> list[nn.Module | Optimizer]:
        return list(self._heterofed_stateful().values())

    def _heterofed_roots(self) -> dict[str, Any]:
        return {**self._heterofed_stateful(), **roots_of(self)}

    def _heterofed_accumulates(self) -> bool:
        """Whether gradients may wait for the step of a later batch."""
        return True

    # -- going on --------------------------------------------------------------------------

    def _heterofed_open_folder(self, run: Run) -> None:
        if goes_on(run):
            with writing(run.result.folder):
                own_folder(run.result.folder)
            drop_drafts(run.result.folder)
            drop_drafts(run.store.folder)
            if agreement_of(run).resume is None:
                if _record_of(run).split is not None:  # rounds may have begun
                    self._heterofed_note_return(run, "its beginning")
                _start_over(run)
                self._heterofed_open_registered_metrics(run)
            return
        run.begun += 1
        if run.begun - 1 > self._heterofed_limits.max_rollbacks:
            raise self._heterofed_too_often("has begun anew")
        if run.store.has_checkpoints and run.resume == "never":
            logger.info("a new run begins; the one that had not ended here is moved aside")
        elif run.store.has_checkpoints:
            logger.warning(
                "a new run begins: not all parties go on with the one that had begun here, which is"
                " moved aside"
            )
        else:
            run.store.clear()
        close_ledger(run)  # of a simulation it goes with the store
        fresh_folder(run.result.folder)
        _start_over(run)
        begin(run)
        self._heterofed_open_registered_metrics(run)

    def _heterofed_take_up(self, run: Run) -> bool:
        """Go on from the checkpoint that everybody holds; gives whether its round was the last.

        Raises:
            ResumeError: own ids or models are not those that the run began with.
        """
        mark = agreement_of(run).resume
        if mark is None:
            raise LocalProtocolError("there is no checkpoint to go on from")
        party = party_of(run)
        with party.in_phase("resume"):
            snapshot = self._heterofed_put_back(run, mark)
            if not snapshot.last:  # else nothing is trained again
                self._heterofed_note_return(run, console.shown_mark(mark.round, mark.batch))
        party.round = run.round
        party.emit(Resumed(mark.round, mark.batch))
        return snapshot.last

    def _heterofed_note_return(self, run: Run, where: str) -> None:
        """Count that the run goes back to a checkpoint, over all restarts of this process.

        Raises:
            RollbackLimitError: it has done so too often: what is sent twice tells more.
        """
        times = ledger_of(run).count(agreement_of(run).run, f"back to {where}")
        if times > self._heterofed_limits.max_rollbacks:
            raise self._heterofed_too_often(
                f"was to go back to {where} once more, after {times - 1} times"
            )

    def _heterofed_too_often(self, what: str) -> RollbackLimitError:
        return RollbackLimitError(
            f"the run {what}, and max_rollbacks is {self._heterofed_limits.max_rollbacks} at"
            f" {self._heterofed_settings.shown_name}: each time what was sent before is sent"
            " again, which tells more of it. Find out in the logs which party goes away, and why;"
            " then start all parties again with a larger max_rollbacks here, or with"
            ' resume="never" for a new run'
        )

    def _heterofed_put_back(self, run: Run, mark: Mark) -> Snapshot:
        """Make this party what it was at a checkpoint."""
        split = _record_of(run).split
        if split is None:
            raise LocalProtocolError("a checkpoint without a split")
        if "own" not in run.state:
            self._heterofed_load_ids(run)
            _check_own_ids(run, split)
        snapshot = snapshots.decode(run.store.load(mark))
        restarted = "settings" not in run.state
        run.round = 0  # hooks make them as they did at first
        if guard := run.state.pop("guard", None):  # made anew for those models and counts
            guard.close()
        if mark == AT_SPLIT:
            run.state.pop("made", None)
        # Before the models are made, which may be fitted on them.
        run.state |= {"train_ids": split.train, "test_ids": split.test}
        things = self._heterofed_stateful()
        optimizers = _optimizers(things)
        if restarted:
            self._heterofed_carried(run).begin()
            snapshots.check_optimizers(optimizers, snapshot.settings)
            for name, each in optimizers.items():
                snapshots.bring_back_settings(name, each, snapshot.settings[name])
        if mark > AT_SPLIT:
            for name, thing in things.items():
                snapshots.put_back(name, thing, snapshot.states.get(name, {}))
        run.round, run.batch = mark.round + (mark.batch > 0), mark.batch
        run.result.rounds, run.result.ids = mark.round, split.common
        run.result.train_rows, run.result.test_rows = len(split.train), len(split.test)
        for name in NOTES:
            run.state.pop(name, None)
        run.state |= {
            "settings": snapshot.settings,
            "best_round": snapshot.best,
            "best_digest": snapshot.best_digest,
            **snapshot.notes,
        }
        run.state.pop("best", None)
        self._heterofed_cut_metrics(run, snapshot)
        self._heterofed_name_best(run, snapshot)
        run.store.drop_after(mark)
        self._heterofed_carried(run).put_back(snapshot.carried)
        self._heterofed_call_hook("load_extra_state", self.load_extra_state, snapshot.extra)
        return snapshot

    def _heterofed_cut_metrics(self, run: Run, snapshot: Snapshot) -> None:
        """Drop the rows of rounds that will be trained again."""
        self._heterofed_open_registered_metrics(run)
        for name, (keys, _) in snapshot.metrics.items():
            if name not in run.metrics:
                self._heterofed_open_kept(run, name, keys)
        registered = registered_metrics(type(self))
        kept = {NEVER_CUT} - registered.keys()
        for name, metrics in run.metrics.items():
            if name in kept:
                continue
            keys, size = snapshot.metrics.get(name, ([], 0))
            with run.harmless("leakage.csv") if name == "leakage" else nullcontext():
                metrics.cut(size, None if name in registered else keys)

    def _heterofed_open_kept(self, run: Run, name: str, keys: Sequence[str]) -> None:
        """Open a metrics set of which only the checkpoint knows."""
        try:
            self._heterofed_open_metrics(run, name, keys)
        except ConfigError as error:
            raise CheckpointError(
                f"a checkpoint in {run.store.folder} was changed ({error}); bring back the one that"
                ' was written, or start all parties with resume="never"'
            ) from None

    def _heterofed_best_files(self, run: Run) -> list[Path]:
        """What `mark_best` had written."""
        paths = [run.result.folder / f"best_{name}.pt" for name in self._heterofed_models]
        return [path for path in paths if path.exists()]

    def _heterofed_name_best(self, run: Run, snapshot: Snapshot) -> None:
        """Name the weights of the best round; those of a round that does not count any more go."""
        files = self._heterofed_best_files(run)
        if snapshot.best and _digest_of(files) == snapshot.best_digest:
            run.result.models |= {path.stem: path for path in files}
            return
        if snapshot.best:
            logger.warning(
                "the weights of the best round, %d, are gone or were overwritten in a later round,"
                " which is trained again",
                snapshot.best,
            )
        for path in files:
            run.result.models.pop(path.stem, None)
            path.unlink(missing_ok=True)
        run.state |= {"best_round": 0, "best_digest": ""}

    def _heterofed_settle(self, run: Run) -> None:
        """Complete this party's part of a run whose last checkpoint all parties hold."""
        mark = max(run.store.marks(), default=None)
        snapshot = None if mark is None else self._heterofed_put_back(run, mark)
        if snapshot is None or not snapshot.last:
            raise ResumeError(
                f"the run in {run.result.folder} has ended at the other parties, and its last"
                ' checkpoint here is gone or damaged; start all with resume="never" for a new run'
            )
        run.complete = True
        record = _record_of(run)
        run.result.run, run.result.fusion = record.run.hex(), record.plan.fusion
        self._heterofed_save_models(run)
        logger.info("the run had ended: its final models are in %s", run.result.folder)


def _record_of(run: Run) -> RunRecord:
    if run.record is None:
        raise LocalProtocolError("the record of the run was asked for before it began")
    return run.record


def _optimizers(things: dict[str, nn.Module | Optimizer]) -> dict[str, Optimizer]:
    return {name: each for name, each in things.items() if isinstance(each, Optimizer)}


def _digest_of(files: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _start_over(run: Run) -> None:
    """Forget what an earlier attempt of this process has made; what was made before it stays."""
    if run.waits:
        run.state.clear()
    run.metrics.clear()
    run.result.models.clear()
    run.round = run.batch = 0


def _check_own_ids(run: Run, split: Split) -> None:
    count, digest = run.state["own"]
    if hmac.compare_digest(digest, split.own_digest):
        return
    was = f"{split.own_count} ids then, {count} now" if count != split.own_count else "as many"
    raise ResumeError(
        f"load_local_ids gives other ids than when the run began ({was}); bring back those, or"
        ' start all parties with resume="never"'
    )
