"""Runs one party's own side of a run again from its record, without the other parties."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from heterofed.errors import ConfigError, RecordError
from heterofed.files import heterofed_home, own_folder, put_in_place, temporary_folder
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer, Timeouts
from heterofed.protocol.codec import read_header
from heterofed.protocol.messages import PROTOCOL_VERSION, BatchDone, Held, Hello, WelcomeBack
from heterofed.protocol.states import Role
from heterofed.rendezvous.agreement import Agreement, task_digest
from heterofed.runs import checkpoint_format as snapshots
from heterofed.runs.checkpoint_format import Snapshot
from heterofed.runs.hook_calls import check_hooks
from heterofed.runs.records.active import LaunchReplacedError, taking_over
from heterofed.runs.records.debugging import stopping_at
from heterofed.runs.records.difference import Difference
from heterofed.runs.records.entries import Beginning, versions
from heterofed.runs.records.keys import delete_old
from heterofed.runs.records.player import PlayedChannel, PlayedEndError, Player
from heterofed.runs.records.segments import Opened, find_segment, open_segment, segments_in
from heterofed.runs.run import Run, new_run
from heterofed.runs.scheduler import Scheduler
from heterofed.runs.settings import is_count
from heterofed.runs.task import Task
from heterofed.runs.term_limits import TASK

logger = logging.getLogger("heterofed")

FOR_EVER = Timeouts(calculation=0, schedule=1e9, moving=1e9)


@dataclass(frozen=True, slots=True)
class Replayed:
    """The outcome of a replay.

    Attributes:
        round, batch: the batch that was replayed.
        begun: the place of the checkpoint from which the replay went, in words.
        ended: where it ended, in words.
        messages, tensors, checkpoints: how many messages that this party sent, tensors in them, and
            checkpoints were compared with the record.
        difference: the first difference; None if everything is the same, bit for bit.
        versions: what has another version than in the run: the name, and both versions.
    """

    round: int
    batch: int
    begun: str
    ended: str
    messages: int
    tensors: int
    checkpoints: int
    difference: Difference | None
    versions: dict[str, tuple[str, str]]

    @property
    def is_same(self) -> bool:
        """Whether everything that was compared is the same, bit for bit."""
        return self.difference is None


def replay(
    scheduler: Any, folder: str | Path, *, round_number: int, batch: int, pdb: bool = False
) -> Replayed:
    """Run this party's own side of a recorded run again, up to a train batch, and compare it.

    The replay begins at the nearest checkpoint before the batch. It writes to a temporary folder
    alone, and sends nothing.

    Args:
        scheduler: the party, made as it was for the run.
        folder: the results folder of the run.
        round_number: the number of the round, from 1.
        batch: the number of the batch, from 0.
        pdb: whether to stop in the debugger at the first line of the hook of that batch.

    Returns:
        What was compared, and the first difference.

    Raises:
        RecordError: the record, or its key, cannot be read, or has no such batch.
        ConfigError: the scheduler is of another party, or a setting is wrong.
        Exception: a hook raised it.
    """
    if not isinstance(scheduler, Scheduler):
        raise ConfigError(f"replay: give a scheduler, not a {type(scheduler).__name__}")
    stage = Stage(Path(folder).absolute(), round_number, batch, pdb=pdb)
    with stage.taking_over():
        scheduler.launch_task(stage.beginning.task)
    return stage.outcome


class Stage:
    """The place of one replay: a batch of a record, which the next launch plays.

    Args:
        folder: the results folder of the run.
        round_number: the number of the round, from 1.
        batch: the number of the batch, from 0.
        pdb: whether to stop in the debugger at the hook of the batch.

    Raises:
        RecordError: the record cannot be read, or has no such batch.
        ConfigError: a number is wrong.
    """

    def __init__(self, folder: Path, round_number: int, batch: int, *, pdb: bool = False) -> None:
        if not is_count(round_number, 1) or not is_count(batch):
            raise ConfigError(
                f"round_number={round_number!r}, batch={batch!r}: give a round from 1 on, and a"
                " batch from 0 on"
            )
        self._folder, self._home, self._pdb = folder, heterofed_home(), pdb
        self._round, self._batch = round_number, batch
        delete_old(self._home)
        self._segment = find_segment(self._home, folder, round_number, batch)
        self.beginning = open_segment(self._home, self._segment).beginning
        self._outcome: Replayed | None = None

    @property
    def outcome(self) -> Replayed:
        """The outcome of the replay.

        Raises:
            ConfigError: nothing was launched.
        """
        if self._outcome is None:
            raise ConfigError(
                f"the program has not launched task {self.beginning.task!r} as"
                f" {self.beginning.party}; give the program and arguments of that party"
            )
        return self._outcome

    @contextmanager
    def taking_over(self) -> Iterator[None]:
        """Let the launch of the recorded party in this block be the replay; it ends the block."""
        with taking_over(self._play):
            try:
                yield
            except LaunchReplacedError:
                return

    def _play(self, task: Task, task_id: str) -> None:
        """Replay in place of a launch; a launch of another party does nothing."""
        begun, settings = self.beginning, task.settings
        named = (task_id, settings.feature_key, task.purpose)
        if named != (begun.task, begun.party, begun.record.purpose):
            return
        if task.role is not begun.role:
            raise ConfigError(
                f"{begun.party} was the {begun.role} of the run; give the scheduler of that role"
            )
        if settings.seed not in (None, begun.record.seed):
            raise ConfigError("the run had another seed; give the one that it had")
        engine = task.engine
        with temporary_folder() as scratch:
            given = {"results_dir": scratch / "replay", "record": None, "callbacks": ()}
            limits = {"max_rollbacks": 10} if hasattr(settings, "max_rollbacks") else {}
            engine.settings = replace(settings, place=None, **given, **limits)
            try:
                self._outcome = self._played(task, scratch)
            finally:
                engine.settings = settings

    def _played(self, task: Task, scratch: Path) -> Replayed:
        opened = open_segment(self._home, self._segment)
        player = self._player(opened)
        with ExitStack() as stack:
            run = self._new_run(task, opened, scratch)
            stack.callback(run.close_ledger)
            check_hooks(task.owner, task.hook_arguments)
            task.hooks.call("validate_context")
            task.check(run)
            if self._pdb:
                stack.enter_context(stopping_at(task.owner, run, self._round, self._batch))
            run.maybe_party = _met(run, opened.beginning, player)
            stack.enter_context(task.sharing(run))
            task.open_folder(run)
            run.recorder = player
            run.party.taps.append(player)
            ended = _performed(lambda: task.perform(run))
        if ended.difference is None and not player.reached:
            raise RecordError(
                f"the record ends before batch {self._batch} of round {self._round} was answered;"
                " give an earlier batch"
            )
        return Replayed(
            self._round,
            self._batch,
            self._segment.shown(),
            ended.by,
            player.messages,
            player.tensors,
            player.checkpoints,
            ended.difference,
            _other_versions(opened.beginning),
        )

    def _player(self, opened: Opened) -> Player:
        """Return the other parties; they know the checkpoint that ends the file, if it is kept."""
        ended = None
        for each in segments_in(self._folder):
            if each.number == self._segment.number + 1:
                after = open_segment(self._home, each)
                if after.beginning.launch == opened.beginning.launch:
                    ended = each.mark, after.content
        plan = opened.beginning.record.plan
        return Player(opened.entries, plan, (self._round, self._batch), ended)

    def _new_run(self, task: Task, opened: Opened, scratch: Path) -> Run:
        """Return the run, whose checkpoint is in a temporary folder."""
        begun, record = opened.beginning, opened.beginning.record
        folder = task.results_folder(begun.task)
        run = new_run(begun.task, begun.party, folder, "require", None)
        run.record, run.seed, run.noise, run.order = (
            record,
            record.seed,
            record.noise,
            record.plan.seed,
        )
        run.purpose, run.simulated = begun.record.purpose, True
        run.ledger = scratch if begun.simulated else self._home
        run.maybe_agreement = Agreement(
            record.plan, record.run, record.secret, begun.mark, begun.mask_keys
        )
        run.mask_secrets, run.sum_key = begun.mask_secrets, begun.sum_key
        task.engine.run = run
        task.begin(run)
        own_folder(folder)
        run.store.begin(record)
        if begun.evidence or begun.counts:
            run.opened_ledger().bring_back(TASK, begun.evidence, begun.counts)
        if record.plan.max_staleness == "auto":
            run.state.foretold_staleness = self._chosen_staleness()
        snapshot = self._as_here(snapshots.decode(opened.content), folder)
        run.store.keep(begun.mark, snapshots.encode(snapshot, proven=True))
        return run

    def _as_here(self, snapshot: Snapshot, folder: Path) -> Snapshot:
        """Return a checkpoint as it fits into another results folder.

        The tables of metrics come along, as far as they are still there.
        """
        tables = {}
        for name, (keys, size) in snapshot.metrics.items():
            content = _beginning_of(self._folder / f"{name}.csv", size)
            if content is not None:
                put_in_place(folder / f"{name}.csv", functools.partial(_write, content))
                tables[name] = keys, size
        kept = replace(snapshot.kept, best_round=0, best_digest="")
        return replace(snapshot, metrics=tables, kept=kept)

    def _chosen_staleness(self) -> int | None:
        """Return the staleness that the Host chose, if it did, since it depends on time."""
        for entry in open_segment(self._home, self._segment).entries:
            message = read_header(entry.header)
            if isinstance(message, BatchDone) and message.staleness is not None:
                return message.staleness
        return None


def _met(run: Run, begun: Beginning, player: Player) -> Party:
    """Return this party, whose sessions have gone on from the checkpoint with all others."""
    agreement, plan = run.agreement, run.plan
    party = Party(begun.party, begun.role, player, timeouts=FOR_EVER, account=run.account)
    others = [plan.host] if begun.role is Role.COLLABORATOR else list(plan.collaborators)
    back = WelcomeBack(
        PROTOCOL_VERSION, agreement.run, agreement.secret, plan, begun.mark, begun.mask_keys
    )
    for name in others:
        channel = player.channels[name] = PlayedChannel(name)
        peer = Peer(name, channel, begun.role, party.clock())
        joins = begun.party if begun.role is Role.COLLABORATOR else name
        hello = Hello(
            (PROTOCOL_VERSION,),
            begun.record.purpose,  # type: ignore[arg-type]
            task_digest(begun.task),
            joins,
            bytes(16),
            begun.trainable[name],
            held=Held(agreement.run, (begun.mark,)),
        )
        said, heard = peer.session.send, peer.session.receive
        for message, pass_on in (
            ((hello, said), (back, heard))
            if begun.role is Role.COLLABORATOR
            else ((hello, heard), (back, said))
        ):
            pass_on(message)
        if name in begun.summed:
            peer.session.sites.go_on()
        party.admit(peer, name)
    return party


def _performed(perform: Callable[[], None]) -> PlayedEndError:
    try:
        perform()
    except PlayedEndError as ended:
        return ended
    return PlayedEndError("the end of the run")


def _other_versions(begun: Beginning) -> dict[str, tuple[str, str]]:
    return {
        name: (begun.versions.get(name, "none"), now)
        for name, now in versions().items()
        if begun.versions.get(name) != now
    }


def _beginning_of(path: Path, size: int) -> bytes | None:
    """Return the first `size` bytes of a file, or None if it does not have them."""
    try:
        with path.open("rb") as file:
            content = file.read(size)
    except OSError:
        return None
    return content if len(content) == size else None


def _write(content: bytes, file: Any) -> None:
    file.write(content)
