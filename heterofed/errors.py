"""Every error that heterofed raises, as one tree.

    HeteroFedError
    ├── ConfigError                  a setting or file of this party is wrong; nothing was done
    │   └── RecordError              a record of a run, or its key, cannot be read
    ├── LocalProtocolError           this program broke the protocol itself: a bug, please report it
    ├── TaskFailed                   the task started and could not go on
    │   ├── JoinTimeoutError         the other parties did not come online in time
    │   ├── JoinRefusedError         the Host turned this party away
    │   │   ├── StrangerError        its feature key is not in the Host's list of collaborators
    │   │   ├── DuplicatePartyError  its feature key is in use, or all parties are connected already
    │   │   ├── OtherTaskError       it joined with another task id, or for another purpose
    │   │   ├── OtherTermsError      its task file differs from the Host's
    │   │   ├── OtherVersionError    it has no protocol version in common with the Host
    │   │   └── TaskFinishedError    the run had ended already
    │   ├── PeerLostError            the connection to a party broke
    │   │   └── HandshakeError       no connection was made: one side does not know the other's key
    │   ├── PeerTimeoutError         a party is connected and has been silent for too long
    │   ├── RemoteProtocolError      a party sent something that the protocol does not allow
    │   ├── DataError                ids or tensors of this task do not fit together
    │   │   ├── IdError              the ids that `load_local_ids` returned cannot be used
    │   │   ├── MissingIdsError      a party's data have no row for a requested id
    │   │   ├── ColumnError          a column of a table cannot be used
    │   │   ├── EmptyIntersectionError  no id is common to all parties
    │   │   ├── SitesOverlapError    two sites of a role have the same ids
    │   │   ├── SitesDifferError     the feature models of a role's sites are not one model
    │   │   ├── EmptySplitError      the split left no train ids, or no test ids
    │   │   ├── SplitMismatchError   the parties split the common ids differently
    │   │   ├── AlignmentError       the parties' batches do not fit row by row
    │   │   │   ├── RowOrderError    a batch has other rows, or another order, at two parties
    │   │   │   ├── RowCountError    a batch has different numbers of rows at two parties
    │   │   │   └── BatchCountError  a round has different numbers of batches at two parties
    │   │   ├── OtherRunError        the parties' models come from different runs
    │   │   ├── MissingPartyError    a prediction lacks a party, or some of its rows
    │   │   ├── FeatureError         a hook returned features of a wrong type, shape or dtype
    │   │   └── NonFiniteError       a tensor holds NaN or infinity
    │   ├── ResumeError              the run cannot be resumed from its checkpoints
    │   │   └── RollbackLimitError   the run was rolled back to the same checkpoint too often
    │   ├── CheckpointError          a checkpoint cannot be written or read
    │   ├── ResultsError             a file in the results folder cannot be written
    │   ├── LedgerError              a party cannot record what it has sent
    │   ├── ReleaseLimitError        a party would send more about a row than its user allows
    │   │   └── LeakLimitError       a party would send more than the limits of the terms allow
    │   ├── LimitReachedError        a party has used up its quota of predictions for today
    │   ├── PSIFailedError           the private set intersection failed a check or went wrong
    │   ├── HookFailedError          user code of another party raised
    │   ├── PartySettingsError       another party's setting, file or table does not fit the task
    │   │   └── FinalLookRefusedError  it does not allow to measure what its columns are worth
    │   ├── InterruptedTaskError     a party was stopped (Ctrl-C, SIGTERM)
    │   ├── RankLostError            a process that computes for a party has ended
    │   └── InternalError            a party failed for a reason that has no class of its own
    ├── RequestError                 a Host that serves a model did not answer a request
    └── transport errors
        ├── ChannelClosedError       a frame was sent on a closed connection
        ├── ChannelOverflowError     a peer does not read what it is sent
        └── LinkError                a peer broke the rules of the reliable link

The party at fault raises the class itself. Every other party raises a subclass of that class that
is also a `TaskAborted`. So `except AlignmentError` works at every party, and `except TaskAborted`
catches only what another party ended. If a hook raises, the exception reaches the caller of
`launch_task` at that party unchanged, with a note that names the hook and the phase.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

_NOT_THEIRS = (str(Path(__file__).parent), str(Path(traceback.__file__).parent))
"""This package and the standard library."""


def _near(filename: str) -> str:
    """A path from the working directory, where it lies below that."""
    try:
        return str(Path(filename).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return filename


class HeteroFedError(Exception):
    """Base of all errors of heterofed.

    What to do: read the message; it names the party, the phase and the remedy.
    """

    begun: bool = False
    """Whether the parties had met when it was raised, so that something may have been sent."""

    def shown(self, trace: TracebackType | None = None) -> list[str]:
        """Return the error as lines of text: the line of the user's code that raised it, the notes,
        and last, where a reader looks first, the name and the message, which ends with the remedy.

        Args:
            trace: the traceback to search for that line; None stands for the error's own.
        """
        frames = traceback.extract_tb(trace or self.__traceback__)
        theirs = [
            each
            for each in frames
            if not each.filename.startswith(_NOT_THEIRS) and "site-packages" not in each.filename
        ]
        spot = [
            f"  at {_near(each.filename)}:{each.lineno}, in {each.name}" for each in theirs[-1:]
        ]
        notes = [f"  {note}" for note in getattr(self, "__notes__", [])]
        return [*spot, *notes, f"{type(self).__name__}: {self}"]

    def _render_traceback_(self) -> list[str]:
        """IPython shows these lines in place of a traceback."""
        return self.shown()


class ConfigError(HeteroFedError):
    """A setting, file or hook of this party is wrong; no work was done.

    What to do: correct what the message names and start again.
    """

    def __init__(self, message: str = "", *, told: str = "settings") -> None:
        """Take the text for this party's user, and the code of the error that the other parties
        raise if they have met already.
        """
        super().__init__(message)
        self.told = told


class RecordError(ConfigError):
    """A record of a run cannot be read: its key is gone, or a file is damaged, changed or cut.

    What to do: bring back the file or the key that the message names, or replay another batch.
    """


@contextmanager
def needing(extra: str, feature: str) -> Iterator[None]:
    """A block that imports a library which not every installation has.

    Args:
        extra: the extra of heterofed that brings the library, such as "search".
        feature: what cannot be done without it, as the beginning of a sentence.

    Raises:
        ConfigError: the library is not installed; the message says how to install it.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{feature} needs an extra: pip install 'heterofed[{extra}]'") from error


class LocalProtocolError(HeteroFedError):
    """This program tried to send a message that the protocol does not allow in the current state.

    What to do: report it; this is a bug in heterofed, or in code that drives a `Session` itself.
    """


class RequestError(HeteroFedError):
    """A Host that serves a model did not answer a request; the link to the other parties stays
    open.

    What to do: read the message; where `retry_after` is set, ask again after so many seconds.

    Args:
        message: the full text for the caller. It has no id and no text of a foreign error.
        code: the reason in one word, such as "limit", "deadline" or "unavailable".
        retry_after: the time in seconds after which a request may succeed; None if it is unknown.
    """

    def __init__(self, message: str, *, code: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code, self.retry_after = code, retry_after


class ChannelClosedError(HeteroFedError):
    """A frame was sent on a connection that is closed.

    What to do: nothing; the scheduler raises `PeerLostError` in its place.
    """


class ChannelOverflowError(HeteroFedError):
    """A peer does not read what it is sent, and its outgoing queue is full.

    What to do: nothing; the scheduler waits for the peer and raises `PeerTimeoutError` in the end.
    """


class LinkError(HeteroFedError):
    """A peer broke the rules of the reliable link: a number is out of range, or a frame is missing.

    What to do: nothing; the transport closes that link, and the scheduler raises `PeerLostError`.
    """


class TaskFailed(HeteroFedError):  # noqa: N818 - this name is part of the contract
    """The task started and could not go on.

    What to do: the message names the party, the phase and the remedy.

    Args:
        message: the full text for this party's user. It is never sent to another party.
        party: the feature key of the party at fault, or None if no single party is.
        phase: the phase in which the error occurred. The scheduler fills in `phase`, `round` and
            `batch` if the code that raised the error did not know them.
        numbers: up to two counts that other parties receive, to be shown in their own message.
        happened: the message without the remedy, to be shown while the task may still recover by
            itself. It is empty if the message has no such part.
    """

    code: ClassVar[str] = "task_failed"
    summary: ClassVar[str] = "the task failed; see the log of that party"

    @classmethod
    def described(cls, numbers: tuple[int, ...]) -> str:
        """Return what other parties are told, with the up to two numbers of an Abort."""
        return cls.summary.format(*(numbers if len(numbers) == 2 else (0, 0)))

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
    """Another party ended the task. The error is also an instance of the class of the reason.

    What to do: look at the log of the party that the message names; it says more.
    """


class JoinTimeoutError(TaskFailed):
    """The other parties did not come online within `join_timeout`.

    What to do: start the parties that the message names, with the same task id. Scripts on one
    machine must run as the same user and with the same `HETEROFED_HOME`.
    """

    code = "join_timeout"
    summary = "the other parties did not come online in time; start them with the same task id"


class JoinRefusedError(TaskFailed):
    """The Host turned this party away, for a reason that the subclass names.

    What to do: compare the feature key with the Host's `collaborators`, or stop the other process
    that runs under the same key.
    """

    code = "join_refused"
    summary = (
        "the Host turned this party away; compare the feature key with the Host's collaborators"
    )


class StrangerError(JoinRefusedError):
    """The Host's list of collaborators does not contain this party's feature key.

    What to do: compare the feature key with the Host's `collaborators`.
    """

    code = "stranger"
    summary = "the Host does not expect this feature key; compare it with the Host's collaborators"


class DuplicatePartyError(JoinRefusedError):
    """A party with this feature key is connected already, or all expected parties are.

    What to do: give every party a feature key of its own, or stop the other process.
    """

    code = "duplicate_party"
    summary = (
        "a party with this feature key is connected already, or all expected parties are; give each"
        " party its own key, or raise the Host's number of collaborators"
    )


class OtherTaskError(JoinRefusedError):
    """This party joined with another task id than the Host's, or for another purpose.

    What to do: give all parties the same task id and schedulers of the same kind.
    """

    code = "other_task"
    summary = (
        "the Host runs another task, or runs it for another purpose; compare the task ids, and"
        " whether both train (launch_task) or predict (serve_predictions)"
    )


class OtherTermsError(JoinRefusedError):
    """The task files of this party and of the Host differ; the message names each field.

    What to do: agree on one file, install it at both parties, and accept it again.
    """

    code = "other_terms"
    summary = "the task files differ; agree on one and accept it again (heterofed task accept)"


class OtherSettingsError(JoinRefusedError):
    """The Host announced other agreed settings than this party was given; the message names them.

    What to do: give the same `agreed=` at every party, or leave out what the Host decides.
    """

    code = "other_settings"
    summary = "the parties were given different agreed settings; give the same `agreed=` at all"


class OtherVersionError(JoinRefusedError):
    """This party and the Host have no version of the protocol in common.

    What to do: install the same version of heterofed at all parties.
    """

    code = "other_version"
    summary = "the Host has another protocol version; install the same heterofed at all parties"


class TaskFinishedError(JoinRefusedError):
    """The run of this task has ended; its Host only waits for the last parties to say goodbye.

    What to do: nothing if the results folder holds the final models; otherwise restore the folder.
    To begin a new run, start all parties again after this one has ended at every party.
    """

    code = "finished"
    summary = "that run had already ended; start all parties again to begin a new one"


class PeerLostError(TaskFailed):
    """The connection to a party broke: its process ended, or the network failed.

    What to do: look at that party's log and start it again with the same command. If the Host's
    `wait_for_peers` has passed, start all parties again; they resume from the last checkpoint.
    """

    code = "peer_lost"
    summary = (
        "the connection to that party broke; start all parties again, and they resume from the last"
        " checkpoint"
    )


class HandshakeError(PeerLostError):
    """The handshake of a connection failed: one side does not know the other's key.

    What to do: compare the keys in both task files with `heterofed keys show`. If they are right,
    another program answers at that address.
    """

    code = "handshake"
    summary = "a handshake failed; compare the keys in the task files with `heterofed keys show`"


class PeerTimeoutError(TaskFailed):
    """A party is connected and has sent or read nothing for longer than the timeouts allow.

    What to do: if that party's hooks need more time, raise `calculation_timeout` at the Host.
    """

    code = "peer_timeout"
    summary = (
        "that party was silent for too long;"
        " if its hooks need more time, raise calculation_timeout at the Host"
    )


class RemoteProtocolError(TaskFailed):
    """A party sent a message that is malformed, oversized, out of turn or out of range.

    What to do: run the same version of heterofed at all parties. If the error recurs, do not trust
    that party.
    """

    code = "protocol"
    remedy: ClassVar[str] = (
        "run the same version of heterofed at every party, and do not trust this party if the error"
        " remains"
    )
    summary = f"that party sent something that the protocol does not allow; {remedy}"


class DataError(TaskFailed):
    """Ids or tensors of this task do not fit together; the subclass says which.

    What to do: follow the message.
    """

    code = "data"
    summary = "ids or tensors do not fit together; see the log of that party"


class IdError(DataError):
    """`load_local_ids` did not return a non-empty list of unique strings.

    What to do: remove duplicates, make sure that there is an id, and convert ids to `str`.
    """

    code = "ids"
    summary = (
        "the ids of that party cannot be used: they must be unique strings, and at least one;"
        " see its log"
    )


class MissingIdsError(DataError):
    """A table or data set has no row for some of the ids that it was asked for.

    What to do: let `load_local_ids` return exactly the ids of the data that the other hooks read.
    """

    code = "missing_ids"
    summary = (
        "the data of that party have no row for {0} of {1} ids that it was asked for;"
        " let its load_local_ids return exactly the ids of its data"
    )


class ColumnError(DataError):
    """A column of a table is not there, not numeric, or has missing values.

    What to do: encode text as numbers, choose what to do about missing values, or leave the column
    out.
    """

    code = "column"
    summary = "a column of that party's table cannot be used; see its log"


class EmptyIntersectionError(DataError):
    """No id is common to all parties, so there is nothing to train on.

    What to do: compare how the parties write their ids (spaces, upper and lower case, leading
    zeros).
    """

    code = "empty_intersection"
    summary = (
        "no id is common to all parties;"
        " compare how the parties write their ids (spaces, case, leading zeros)"
    )


class SitesOverlapError(DataError):
    """Two sites of a role have rows of the same ids.

    What to do: let each person's rows be at one site alone, or give `sites_overlap="first"`.
    """

    code = "sites_overlap"
    summary = (
        "two sites of a role have the same ids; let each person's rows be at one site alone, or let"
        " the Host give sites_overlap='first'"
    )


class SitesDifferError(DataError):
    """The feature models or optimizers of a role's sites differ, so that they are not one model.

    What to do: return the same model and the same optimizer from the hooks of all sites of the
    role, and change them alike in `on_round_end`.
    """

    code = "sites_differ"
    summary = (
        "the feature models or optimizers of a role's sites differ; make the same ones at all sites"
    )


class EmptySplitError(DataError):
    """`split_dataset` left no train ids, or no test ids.

    What to do: check the size of the intersection and the code of `split_dataset`.
    """

    code = "empty_split"
    summary = "split_dataset left no train ids, or no test ids; return both from split_dataset"


class SplitMismatchError(DataError):
    """`split_dataset` returned different train or test ids at different parties.

    What to do: use the same deterministic `split_dataset` at all parties, or define it at none.
    """

    code = "split_mismatch"
    summary = (
        "split_dataset returned different ids at different parties; use the same deterministic one"
        " at all of them"
    )


class AlignmentError(DataError):
    """The parties' batches do not fit together; the subclass says in what they differ.

    What to do: use the same batch size and the same handling of the last batch at all parties.
    """

    code = "alignment"
    summary = "the parties' batches do not fit row by row; use the same batch size at all parties"


class RowOrderError(AlignmentError):
    """Two parties' rows of a batch belong to different ids, or are in a different order.

    No training step was made on that batch.

    What to do: read rows in the order of the ids that the hook is given; do not shuffle or sort.
    """

    code = "row_order"
    summary = (
        "that party's rows belong to other ids, or are in another order; it must read them in the"
        " order of the ids that its hook is given"
    )


class RowCountError(AlignmentError):
    """Two parties have different numbers of rows in the same batch.

    No training step was made on that batch.

    What to do: use the same batch size at all parties.
    """

    code = "row_count"
    summary = (
        "a batch has {0} rows at that party and {1} at the Host; use the same batch size at all"
        " parties"
    )


class BatchCountError(AlignmentError):
    """Two parties made different numbers of batches out of the same ids.

    What to do: use the same batch size and the same handling of the last batch at all parties.
    """

    code = "batch_count"
    summary = (
        "that party made {0} batches and the Host {1}; use the same batch size and the same"
        " handling of the last batch at all parties"
    )


class OtherRunError(DataError):
    """The models of two parties come from different runs, or from different rounds of one run.

    What to do: restore the results folders of one run at all parties, or train again.
    """

    code = "other_run"
    summary = (
        "that party's models come from another run than this party's; restore the results folders"
        " of one run at all parties"
    )


class MissingPartyError(DataError):
    """A prediction lacks a party, or some of the party's rows.

    What to do: start that party's `serve_predictions`, leave out the ids that it does not have, or
    pass `missing_party="zero"` or `"mean"`.
    """

    code = "missing_party"
    summary = (
        "a party, or some of its rows, are missing for the prediction;"
        " start its serve_predictions, or leave those ids out"
    )


class FeatureError(DataError):
    """A hook returned something other than a tensor, or a tuple or dict of tensors, that can be
    sent.

    What to do: yield tensors with equal first dimensions and supported dtypes.
    """

    code = "features"
    summary = "a hook of that party returned features of a wrong type, shape or dtype; see its log"


class NonFiniteError(DataError):
    """A feature or gradient holds NaN or infinity.

    What to do: lower the learning rate, clip gradients, or look for missing values in the data.
    """

    code = "non_finite"
    summary = (
        "a tensor of that party holds NaN or infinity;"
        " lower the learning rate, clip gradients, or look for missing values"
    )


class ResumeError(TaskFailed):
    """A run cannot be resumed: ids, models or settings have changed, or checkpoints are missing.

    What to do: restore what the message names, or start all parties with `resume="never"`.
    """

    code = "resume"
    summary = (
        "a party cannot resume the run: its ids, models or settings have changed, or it holds none"
        " of the checkpoints; see its log, or start all parties with resume='never'"
    )


class RollbackLimitError(ResumeError):
    """A run has been rolled back to the same checkpoint more often than `max_rollbacks` allows.

    What to do: find out which party fails, and why. Then start all parties again, either with a
    larger `max_rollbacks` at the party that the message names, or all with `resume="never"`.
    """

    code = "rollbacks"
    summary = (
        "the run has been rolled back to the same checkpoint more often than that party allows"
        " (max_rollbacks); find out which party fails, then start all parties again"
    )


class CheckpointError(TaskFailed):
    """A checkpoint cannot be written or read: the disk is full, or a file is missing or damaged.

    What to do: make room on the disk, then start all parties again; they resume from the last
    checkpoint that all of them hold.
    """

    code = "checkpoint"
    summary = "that party cannot write or read its checkpoints; see its log"


class ResultsError(TaskFailed):
    """A model, table or summary cannot be written to the results folder.

    What to do: make room on the disk, then start all parties again. They resume from the last
    checkpoint; a party whose run was complete only writes its results.
    """

    code = "results"
    summary = "that party cannot write its results; see its log"


class LedgerError(TaskFailed):
    """A party cannot read or write the file in which it records what it has sent.

    It sends nothing that it cannot record.

    What to do: make room on the disk, or restore the file that the message names.
    """

    code = "ledger"
    summary = "that party cannot record what it sends, so it sends nothing; see its log"


class ReleaseLimitError(TaskFailed):
    """A party would send more about a row than its user allows; it was not sent.

    What to do: stop here, or raise `max_releases_per_row` or `max_epsilon` at that party. These
    limits count all runs of a task together.

    Args:
        message: the full text for this party's user.
        measure: the limited quantity: "releases_per_row", or a column of `privacy.csv`.
        value: the value that would have been reached.
        limit: the largest value that the user allows.
        rest: the other arguments of `TaskFailed`.
    """

    code = "releases"
    summary = (
        "that party would send more about a row than its user allows;"
        " stop here, or have its limit raised"
    )

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


class LeakLimitError(ReleaseLimitError):
    """A party would exceed a limit of the task's terms; what would have exceeded it was not sent.

    `measure`, `value` and `limit` say what was measured. At the other parties `measure` and `value`
    are what that party says, and the limit is in the terms.

    What to do: stop here, or agree on other terms. Limits of leaks, releases, rounds, ids and bytes
    count all runs of a task together, so a restart does not reset them.
    """

    code = "leak_limit"
    summary = (
        "a limit of the terms was reached, and that party has sent nothing beyond it; stop here, or"
        " agree on other terms"
    )

    RATIOS: ClassVar[tuple[str, ...]] = (
        *("label_auc", "input_r2", "eps_labels", "eps_embeddings", "eps_weights"),
    )
    MEASURES: ClassVar[tuple[str, ...]] = (
        *(*RATIOS, "rounds", "releases_per_row", "intersection", "batch", "ids", "bytes"),
    )
    """The measures, in the order of their numbers in an Abort."""

    MOST: ClassVar[int] = 2**40

    def __init__(self, message: str = "", **rest: Any) -> None:
        super().__init__(message, **rest)
        if self.measure:
            scaled = self.value * (10_000 if self.measure in self.RATIOS else 1)
            self.numbers = self.MEASURES.index(self.measure), int(min(scaled, self.MOST))
        else:
            self.measure, self.value = self._told(self.numbers)

    @classmethod
    def described(cls, numbers: tuple[int, ...]) -> str:
        """See `TaskFailed.described`. The numbers come from a peer."""
        measure, value = cls._told(numbers)
        return f"{cls.summary} ({measure} came to {value:g})" if measure else cls.summary

    @classmethod
    def _told(cls, numbers: tuple[int, ...]) -> tuple[str, float]:
        """Return the measure and the value in an Abort; "" and 0 if it has none."""
        if len(numbers) != 2 or numbers[0] >= len(cls.MEASURES):
            return "", 0.0
        measure, scaled = cls.MEASURES[numbers[0]], numbers[1]
        if scaled >= cls.MOST:
            return measure, math.inf
        return measure, scaled / 10_000 if measure in cls.RATIOS else float(scaled)


class LimitReachedError(TaskFailed):
    """A party has predicted as many rows today as its quota allows.

    What to do: ask for fewer rows, wait until tomorrow (UTC), or have it raise `max_rows_per_day`.
    """

    code = "limit"
    summary = (
        "that party's quota does not allow so many predictions today (UTC); ask for fewer rows, or"
        " have its max_rows_per_day raised"
    )


class PSIFailedError(TaskFailed):
    """The private set intersection failed a check or went wrong.

    What to do: run the same version at all parties. If the error recurs, do not trust the party
    that the message names.
    """

    code = "psi"
    summary = (
        "the private set intersection failed a check or went wrong;"
        " run the same version of heterofed at all parties"
    )


class PSILimitError(PSIFailedError):
    """A party has used up the number of ids that another party intersects with it in all runs.

    What to do: if so many ids are expected, raise `max_peer_ids` (`max_ids_per_day` for
    predictions) at the party that ended the task. Runs with unchanged ids count once.
    """

    code = "psi_limit"
    summary = (
        "that party intersects no more ids with this one: earlier runs count against its"
        " max_peer_ids, and today's predictions against its max_ids_per_day; have the limit raised"
        " if you need more. A stored set answers whom its owner allows, and for so many ids"
    )


class HookFailedError(TaskFailed):
    """A hook of another party raised an exception; only that party's log shows it.

    What to do: ask the party that the message names.
    """

    code = "hook"
    summary = "a hook of that party raised an exception; see its log"


class PartySettingsError(TaskFailed):
    """A setting, file or table of another party does not fit the task that the parties began.

    What to do: ask the party that the message names: its log says what to correct. Then start all
    parties again.
    """

    code = "settings"
    summary = (
        "a setting, file or table of that party does not fit this task; its log says what to"
        " correct, then start all parties again"
    )


class FinalLookRefusedError(PartySettingsError):
    """Another party does not let the Host look at the best models once more, on test rows in which
    it changes something of its own: the Host measures what columns are worth (`final_rows`).

    What to do: have that party allow it (`importance=True`, `--importance`), or leave it out here.
    """

    code = "final_look"
    summary = (
        "that party does not allow to measure what its columns are worth (final_rows): have it"
        " allow that (importance=True, --importance), or leave it out at the Host"
    )


class InterruptedTaskError(TaskFailed):
    """A party was stopped by Ctrl-C or SIGTERM.

    What to do: start all parties again when that party is ready.
    """

    code = "interrupted"
    summary = "that party was stopped by its user; start all parties again when it is ready"


class RankLostError(TaskFailed):
    """A process that computes a part of a party's feature model has ended, or does not answer.

    What to do: look at that process's log, and start all parties again. The task resumes.
    """

    code = "rank_lost"
    remedy: ClassVar[str] = "look at its log, and start all parties again: the task resumes"
    summary = "a process that computes for that party was lost; start all parties again"


class InternalError(TaskFailed):
    """A party failed for a reason that has no class of its own.

    What to do: look at that party's log, and report the error if it is a bug.
    """

    code = "internal"
    summary = "that party failed; see its log"


def _tree(cls: type[TaskFailed]) -> list[type[TaskFailed]]:
    return [cls, *(sub for child in cls.__subclasses__() for sub in _tree(child))]


BY_CODE: dict[str, type[TaskFailed]] = {
    cls.code: cls for cls in _tree(TaskFailed) if "code" in vars(cls)
}
"""The error class for each reason code that an Abort message may carry."""


@cache
def aborted(code: str) -> type[TaskAborted]:
    """Return the class that a party raises when another party ended the task for the reason `code`.

    The class is a subclass of `TaskAborted` and of the class that `code` names, or `TaskAborted`
    itself for a code that this version does not know.
    """
    cause = BY_CODE.get(code, TaskFailed)
    if cause is TaskFailed:
        return TaskAborted
    return type(cause.__name__, (TaskAborted, cause), {"__doc__": cause.__doc__, "code": code})
