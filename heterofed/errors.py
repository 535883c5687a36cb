"""Everything that can go wrong, as one tree.

    HeteroFedError
    ├── ConfigError                  a setting or file of this party is wrong; nothing was done
    ├── LocalProtocolError           this program broke the protocol itself: a bug, please report it
    ├── TaskFailed                   the task started and could not go on
    │   ├── JoinTimeoutError         the other parties did not come online in time
    │   ├── JoinRefusedError         the Host turned this party away
    │   │   ├── StrangerError        its feature key is not expected
    │   │   ├── DuplicatePartyError  its feature key is taken, or everybody is there
    │   │   ├── OtherTaskError       it came for another task, or for another purpose
    │   │   ├── OtherTermsError      its task file says other things than the Host's
    │   │   ├── OtherVersionError    it speaks no version of the protocol that the Host speaks
    │   │   └── TaskFinishedError    the run had ended already, with its last checkpoint held by all
    │   ├── PeerLostError            the connection to a party broke
    │   │   └── HandshakeError       it never stood: one side does not know the other's key
    │   ├── PeerTimeoutError         a party is connected and has been silent for too long
    │   ├── RemoteProtocolError      a party said something that the protocol does not allow
    │   ├── DataError                ids or tensors of this task do not fit together
    │   │   ├── IdError              the ids that `load_local_ids` gave cannot be used
    │   │   ├── MissingIdsError      a party's data have no row for ids that were asked for
    │   │   ├── ColumnError          a column of a table cannot be used
    │   │   ├── EmptyIntersectionError  no id is common to all parties
    │   │   ├── EmptySplitError      the split left no train ids, or no test ids
    │   │   ├── SplitMismatchError   the parties split the common ids differently
    │   │   ├── AlignmentError       the parties' batches do not fit row by row
    │   │   │   ├── RowOrderError    other rows, or in another order, in one batch
    │   │   │   ├── RowCountError    different numbers of rows in one batch
    │   │   │   └── BatchCountError  different numbers of batches in one round
    │   │   ├── OtherRunError        the parties' models are not of the same run
    │   │   ├── MissingPartyError    a party, or its rows, are missing for a prediction
    │   │   ├── FeatureError         a hook gave features of a wrong type, shape or dtype
    │   │   └── NonFiniteError       a tensor holds NaN or infinity
    │   ├── ResumeError              the run cannot go on from its checkpoints, or not as it began
    │   │   └── RollbackLimitError   it has gone back to the same checkpoint too often
    │   ├── CheckpointError          a checkpoint cannot be written or read
    │   ├── ResultsError             a file of the results cannot be written
    │   ├── LedgerError              a party cannot count what leaves it
    │   ├── ReleaseLimitError        more would leave a party than it allows
    │   ├── LimitReachedError        a party predicts no more rows today
    │   ├── PSIFailedError           the private set intersection was refused or went wrong
    │   ├── HookFailedError          user code of another party raised
    │   ├── InterruptedTaskError     a party was stopped (Ctrl-C, SIGTERM)
    │   └── InternalError            a party failed for a reason that has no class of its own
    └── transport errors
        ├── ChannelClosedError       sending on a connection that is gone
        ├── ChannelOverflowError     a peer does not read what it is sent
        └── LinkError                a peer broke the rules of the reliable link

Whoever is at fault raises the class itself. Everyone else raises a subclass of the same class that
is a `TaskAborted` too, so `except AlignmentError` works at every party and `except TaskAborted`
tells "another party ended it" apart. Where a user's hook raised, that exception comes out
unchanged, with a note, at the party whose hook it was.
"""

from __future__ import annotations

import traceback
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

_NOT_THEIRS = (str(Path(__file__).parent), str(Path(traceback.__file__).parent))
"""This package and the standard library."""


class HeteroFedError(Exception):
    """Base of all errors of heterofed.

    What to do: read the message; it names the party, the phase and the remedy.
    """

    def shown(self, trace: TracebackType | None = None) -> list[str]:
        """The error as lines for people: its name and message, the line of their own code that it
        came from, and notes.

        Args:
            trace: of the error; None: its own.
        """
        frames = traceback.extract_tb(trace or self.__traceback__)
        theirs = [
            each
            for each in frames
            if not each.filename.startswith(_NOT_THEIRS) and "site-packages" not in each.filename
        ]
        spot = [f"  at {each.filename}:{each.lineno}, in {each.name}" for each in theirs[-1:]]
        notes = [str(note) for note in getattr(self, "__notes__", [])]
        return [f"{type(self).__name__}: {self}", *spot, *notes]

    def _render_traceback_(self) -> list[str]:
        """What notebooks show in place of a traceback."""
        return self.shown()


class ConfigError(HeteroFedError):
    """A setting, file or hook of this party is wrong; no work was done.

    What to do: mend what the message names and start again.
    """


class LocalProtocolError(HeteroFedError):
    """This program tried to send a message that the protocol does not allow now.

    What to do: this is a bug in heterofed (or in code that drives a `Session` by hand): report it.
    """


class ChannelClosedError(HeteroFedError):
    """A frame was sent on a connection that is gone.

    What to do: nothing; the scheduler turns it into `PeerLostError`.
    """


class ChannelOverflowError(HeteroFedError):
    """A peer does not read what it is sent, and the queue for it is full.

    What to do: wait for the peer, or give it up; the scheduler does either.
    """


class LinkError(HeteroFedError):
    """A peer claimed on the reliable link what cannot be: numbers out of range, gaps, other frames.

    What to do: nothing; the transport ends that link, and the scheduler raises `PeerLostError`.
    """


class TaskFailed(HeteroFedError):  # noqa: N818 - this name is part of the contract
    """The task started and could not go on.

    What to do: the message names the party, the phase and the remedy.

    Args:
        message: the whole story, for this party's user; it never travels.
        party: the party at fault, where one is.
        phase: the phase in which it happened; with `round` and `batch` filled in on the way out
            where they are not known here.
        numbers: up to two counts that the other parties may see, for their own message.
        happened: the message without what to do, for where the task may go on by itself; empty:
            there is no such part.
    """

    code: ClassVar[str] = "task_failed"
    summary: ClassVar[str] = "the task failed"

    def __init__(
        self,
        message: str = "",
        *,
        party: str | None = None,
        phase: str | None = None,
        round: int = 0,  # noqa: A002 - the field's own word
        batch: int | None = None,
        numbers: tuple[int, ...] = (),
        happened: str = "",
    ) -> None:
        super().__init__(message or self.summary)
        self.happened = happened
        self.party = party
        self.phase = phase
        self.round = round
        self.batch = batch
        self.numbers = numbers


class TaskAborted(TaskFailed):
    """Another party ended the task; always raised as a subclass of the reason's own class too.

    What to do: look at the party that the message names; its own log says more.
    """


class JoinTimeoutError(TaskFailed):
    """The other parties did not come online within `join_timeout`.

    What to do: start the parties that the message names, with the same task id; for scripts on
    one machine, as the same user and with the same `HETEROFED_HOME`.
    """

    code = "join_timeout"
    summary = "the other parties did not come online in time"


class JoinRefusedError(TaskFailed):
    """The Host turned this party away: not expected, already there, or of another version.

    What to do: compare the feature key with the Host's `collaborators`, or stop the other process
    that runs under the same key.
    """

    code = "join_refused"
    summary = "the Host turned this party away"


class StrangerError(JoinRefusedError):
    """The Host does not expect a party of this feature key.

    What to do: compare the feature key with the Host's `collaborators`.
    """

    code = "stranger"
    summary = "the Host does not expect this feature key; compare it with its collaborators"


class DuplicatePartyError(JoinRefusedError):
    """A party of this feature key is there already, or the number of parties is complete.

    What to do: give every party a feature key of its own, or stop the other process.
    """

    code = "duplicate_party"
    summary = (
        "a party of this feature key is there already, or all parties are; give each its own key"
        " and raise the Host's collaborators where there should be more"
    )


class OtherTaskError(JoinRefusedError):
    """This party came for another task than the Host runs, or for another purpose.

    What to do: give all parties the same task id and schedulers of the same kind.
    """

    code = "other_task"
    summary = (
        "the Host runs another task, or one for another purpose; compare the task ids, and whether"
        " it trains (launch_task) or predicts (serve_predictions)"
    )


class OtherTermsError(JoinRefusedError):
    """The task files of this party and of the Host differ; the message names each field.

    What to do: agree on one file, put it in its place at both, and accept it anew.
    """

    code = "other_terms"
    summary = "the task files differ; agree on one file and accept it anew (heterofed task accept)"


class OtherSettingsError(JoinRefusedError):
    """The Host announced other agreed settings than this party was given; the message names them.

    What to do: give the same `agreed=` at every party, or leave out what the Host decides.
    """

    code = "other_settings"
    summary = "the parties were given different agreed settings; give the same `agreed=` at all"


class OtherVersionError(JoinRefusedError):
    """This party and the Host have no version of the protocol in common.

    What to do: install the same version of heterofed everywhere.
    """

    code = "other_version"
    summary = "the Host speaks another protocol version; install the same heterofed everywhere"


class TaskFinishedError(JoinRefusedError):
    """The run of this task had ended, and its Host came back only to hear the last goodbyes.

    What to do: nothing where the final models are in the results folder; else restore the folder.
    For a new run, start all parties again once this one has ended everywhere.
    """

    code = "finished"
    summary = "that run had already ended; for a new one start all parties again"


class PeerLostError(TaskFailed):
    """The connection to a party broke: its process ended, or the network did.

    What to do: see that party's log and start it again, with the same command; where the Host's
    `wait_for_peers` has passed, start all parties again: they go on from the last checkpoint.
    """

    code = "peer_lost"
    summary = "the connection to that party broke; started again, all parties go on from there"


class HandshakeError(PeerLostError):
    """A connection was made and its handshake failed: one side does not know the other's key.

    What to do: compare the keys in both task files with `heterofed keys show`; if they are right,
    somebody else answers at that address.
    """

    code = "handshake"
    summary = "a handshake failed; compare the keys in the task files with `heterofed keys show`"


class PeerTimeoutError(TaskFailed):
    """A party is connected and has said nothing, or not read, for longer than the timeouts allow.

    What to do: where its hooks need longer than that, raise `calculation_timeout` at the Host.
    """

    code = "peer_timeout"
    summary = "that party was silent for too long"


class RemoteProtocolError(TaskFailed):
    """A party sent something malformed, oversized, out of turn or out of range.

    What to do: run the same version of heterofed everywhere; if it stays, do not trust that party.
    """

    code = "protocol"
    summary = "that party sent something that the protocol does not allow"


class DataError(TaskFailed):
    """Ids or tensors of this task do not fit together.

    What to do: see the subclass.
    """

    code = "data"
    summary = "ids or tensors do not fit together"


class IdError(DataError):
    """`load_local_ids` did not give a non-empty list of unique strings.

    What to do: remove duplicates and empty lists, and turn ids into `str`.
    """

    code = "ids"
    summary = "the ids of that party cannot be used: they must be unique strings, and at least one"


class MissingIdsError(DataError):
    """A table or data set has no row for ids that were asked of it.

    What to do: let `load_local_ids` return exactly the ids of the data that the other hooks read.
    """

    code = "missing_ids"
    summary = "the data of that party have no row for {0} of {1} ids that were asked of them"


class ColumnError(DataError):
    """A column of a table is not there, not numeric, or has missing values.

    What to do: encode words as numbers, say what to do about missing values, or leave it out.
    """

    code = "column"
    summary = "a column of that party's table cannot be used; see its log"


class EmptyIntersectionError(DataError):
    """No id is common to all parties, so there is nothing to train on.

    What to do: compare how the parties write their ids (spaces, case, leading zeros).
    """

    code = "empty_intersection"
    summary = "no id is common to all parties"


class EmptySplitError(DataError):
    """`split_dataset` left no train ids, or no test ids.

    What to do: look at the size of the intersection, and at `split_dataset`.
    """

    code = "empty_split"
    summary = "split_dataset left no train ids, or no test ids"


class SplitMismatchError(DataError):
    """`split_dataset` gave different train or test ids at different parties.

    What to do: use the same deterministic `split_dataset` everywhere, or leave it out everywhere.
    """

    code = "split_mismatch"
    summary = "split_dataset gave different ids at different parties; use the same one everywhere"


class AlignmentError(DataError):
    """The parties sent different numbers of rows in a batch, or of batches in a round.

    What to do: use the same batch size and the same handling of the last batch everywhere.
    """

    code = "alignment"
    summary = "the parties' batches do not fit row by row"


class RowOrderError(AlignmentError):
    """Two parties' rows of a batch are of other ids, or in another order; no step was made on it.

    What to do: read rows in the order of the ids that the hook is given; do not shuffle or sort.
    """

    code = "row_order"
    summary = "rows of other ids, or in another order; read them in the order of the ids given"


class RowCountError(AlignmentError):
    """Two parties sent different numbers of rows in the same batch; no step was made on it.

    What to do: use the same batch size everywhere.
    """

    code = "row_count"
    summary = "unequal row counts in a batch: {0} there, {1} at the Host; use one batch size"


class BatchCountError(AlignmentError):
    """Two parties made different numbers of batches out of the same ids.

    What to do: use the same batch size and the same handling of the last batch everywhere.
    """

    code = "batch_count"
    summary = (
        "unequal batch counts: {0} there, {1} at the Host; use one batch size and treat the last"
        " batch alike"
    )


class OtherRunError(DataError):
    """The models of two parties were not trained in the same run, or not for the same rounds.

    What to do: bring back the results folders of one run at all parties, or train anew.
    """

    code = "other_run"
    summary = "the models there are not of the same run as here; bring back those of one run"


class MissingPartyError(DataError):
    """A prediction needs a party, or rows of it, that are not there.

    What to do: start that party's `serve_predictions`; leave out ids that it does not have; or give
    `missing_party="zero"` or `"mean"`.
    """

    code = "missing_party"
    summary = "a party, or rows of it, are missing for the prediction"


class FeatureError(DataError):
    """A hook gave something that is not a tensor (or tuple or dict of tensors) that can be sent.

    What to do: yield tensors of equal first dimension and of a supported dtype.
    """

    code = "features"
    summary = "a hook of that party gave features of a wrong type, shape or dtype"


class NonFiniteError(DataError):
    """A feature or gradient holds NaN or infinity.

    What to do: lower the learning rate, clip gradients, or look for missing values in the data.
    """

    code = "non_finite"
    summary = "a tensor of that party holds NaN or infinity"


class ResumeError(TaskFailed):
    """A run cannot go on as it began: ids, models or the plan changed, or checkpoints are missing.

    What to do: bring back what the message names, or start all parties with `resume="never"`.
    """

    code = "resume"
    summary = (
        "a party cannot go on with the run: its ids, models or settings changed, or it holds none"
        " of the checkpoints; see its log, or start all parties with resume='never'"
    )


class RollbackLimitError(ResumeError):
    """A run has gone back to the same checkpoint more often than a party allows, whoever asked.

    What to do: find out which party goes away, and why; then start all parties again, that party
    with a larger `max_rollbacks`, or all with `resume="never"`.
    """

    code = "rollbacks"
    summary = (
        "the run has gone back to the same checkpoint more often than that party allows"
        " (max_rollbacks)"
    )


class CheckpointError(TaskFailed):
    """A checkpoint cannot be written or read: disk full, folder gone, file damaged.

    What to do: make room, then start all parties again: they go on from the last one that all hold.
    """

    code = "checkpoint"
    summary = "that party cannot write or read its checkpoints; see its log"


class ResultsError(TaskFailed):
    """A model, table or summary cannot be written to the results folder: disk full, folder gone.

    What to do: make room, then start all parties again: they go on from the last checkpoint, and a
    party whose run was complete only writes its results.
    """

    code = "results"
    summary = "that party cannot write its results; see its log"


class LedgerError(TaskFailed):
    """A party cannot read or write the file in which it counts what has left it; so nothing leaves.

    What to do: make room on the disk, or bring the file back; the message names it.
    """

    code = "ledger"
    summary = "that party cannot count what leaves it; see its log"


class ReleaseLimitError(TaskFailed):
    """More of a row would leave a party than its user allows; nothing of it has left.

    What to do: nothing where enough is enough; else raise `max_releases_per_row` or `max_epsilon`
    at that party, which holds for all runs of a task together.

    Args:
        message: the whole story.
        measure: what is limited: "releases_per_row", or a column of `privacy.csv`.
        value: what it would have come to.
        limit: what the user allows.
        rest: as for any `TaskFailed`.
    """

    code = "releases"
    summary = "more of a row would leave that party than its user allows"

    def __init__(
        self,
        message: str = "",
        *,
        measure: str = "",
        value: float = 0,
        limit: float = 0,
        **rest: Any,
    ) -> None:
        super().__init__(message, **rest)
        self.measure = measure
        self.value = value
        self.limit = limit


class LimitReachedError(TaskFailed):
    """A party has predicted as many rows today as it allows.

    What to do: ask for fewer rows, wait until tomorrow (UTC), or have it raise `max_rows_per_day`.
    """

    code = "limit"
    summary = "that party predicts no more rows today (UTC); ask for fewer, or have it allow more"


class PSIFailedError(TaskFailed):
    """The private set intersection was refused by a check or went wrong.

    What to do: run the same version everywhere; if it stays, do not trust the party it names.
    """

    code = "psi"
    summary = "the private set intersection was refused or went wrong"


class PSILimitError(PSIFailedError):
    """A party has had as many ids intersected as another one allows it, all runs counted together.

    What to do: where so many are expected, raise `max_peer_ids` at the party that ended the task
    (`max_ids_per_day` for predictions). Runs in which no party's ids have changed count once.
    """

    code = "psi_limit"
    summary = (
        "no more ids are intersected with this party there: its earlier runs, or its predictions of"
        " today, count against max_peer_ids (max_ids_per_day); have that raised where it is needed"
    )


class HookFailedError(TaskFailed):
    """User code (a hook) of another party raised; only that party's log says what.

    What to do: ask the party that the message names.
    """

    code = "hook"
    summary = "user code of that party raised an exception; see its log"


class InterruptedTaskError(TaskFailed):
    """A party was stopped by Ctrl-C or SIGTERM.

    What to do: start all parties again when that party is ready.
    """

    code = "interrupted"
    summary = "that party was stopped by its user"


class InternalError(TaskFailed):
    """A party failed for a reason that has no class of its own.

    What to do: see that party's log; report it if it is a bug.
    """

    code = "internal"
    summary = "that party failed; see its log"


def _tree(cls: type[TaskFailed]) -> list[type[TaskFailed]]:
    return [cls, *(sub for child in cls.__subclasses__() for sub in _tree(child))]


BY_CODE: dict[str, type[TaskFailed]] = {
    cls.code: cls for cls in _tree(TaskFailed) if "code" in vars(cls)
}
"""What an Abort message may name as its reason, and the class it stands for."""


@cache
def aborted(code: str) -> type[TaskAborted]:
    """The class that a party raises when another one ended the task for `code`.

    It is a subclass of `TaskAborted` and of the class that `code` names (`TaskFailed` for a code
    that this version does not know).
    """
    cause = BY_CODE.get(code, TaskFailed)
    if cause is TaskFailed:
        return TaskAborted
    return type(cause.__name__, (TaskAborted, cause), {"__doc__": cause.__doc__, "code": code})
