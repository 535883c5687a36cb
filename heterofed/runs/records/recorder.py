"""Records the messages of a party, and the checkpoints between them, while a run goes on."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from heterofed.errors import ConfigError
from heterofed.files import heterofed_home, new_file, own_folder
from heterofed.messaging.taps import Tap
from heterofed.protocol.codec import Buffer, encode, header_in
from heterofed.protocol.leak_limits import LeakLimits
from heterofed.protocol.messages import Abort, Mark, Message, Waiting
from heterofed.reporting.diagnostics import place_of
from heterofed.runs.checkpoint_store import encoded
from heterofed.runs.records.entries import CAME, END, SENT, Beginning, entry_parts, versions
from heterofed.runs.records.keys import delete_old, make_key, note_use
from heterofed.runs.records.no_record import NoRecord
from heterofed.runs.records.program import this_program
from heterofed.runs.records.sealed import SealedWriter
from heterofed.runs.records.segments import FOLDER, Segment, segments_in
from heterofed.runs.settings import Settings
from heterofed.runs.term_limits import TASK

if TYPE_CHECKING:
    from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")

LEFT_OUT = (Abort, Waiting)
"""Messages that tell how the task goes; when they come depends on time alone."""


def opened_record(run: Run, settings: Settings) -> NoRecord:
    """Return the record of a run whose parties are connected, and delete old ones.

    Raises:
        ConfigError: this party is to record, and the terms do not allow it.
    """
    with run.harmless("the deletion of old records"):
        delete_old(heterofed_home())
    if settings.record is None:
        return NoRecord()
    if not run.plan.recording:
        raise ConfigError(
            f'record="{settings.record}" keeps what the other parties send, and the terms do not'
            " allow it: agree on recording = true in [plan] of the task file (without one, give"
            " the Host recording=True), or leave out record"
        )
    record = Recorder(run, settings)
    run.party.taps.append(record)
    return record


class Recorder(NoRecord, Tap):
    """The record of one run since the parties connected.

    A failure to write it ends no run: the rest up to the next checkpoint is not recorded.

    Args:
        run: the run.
        settings: the settings of this party.
    """

    def __init__(self, run: Run, settings: Settings) -> None:
        self._run, self._home = run, heterofed_home()
        self._folder = run.result.folder / FOLDER
        self._key = make_key(self._home, self._folder, settings.record_days)
        self._launch = secrets.token_bytes(8)
        self._number = max((each.number for each in segments_in(run.result.folder)), default=0)
        self._file = ExitStack()
        self._writer: SealedWriter | None = None

    def kept(self, mark: Mark, content: bytes) -> None:
        """See `NoRecord`. The file up to here is complete, and the next one begins."""
        self._add(END)
        self._begin(mark, content)

    def went_back(self, mark: Mark, content: bytes) -> None:
        """See `NoRecord`."""
        self._begin(mark, content)
        # What came while the parties connected, before this file began, is taken only after it.
        for name, peer in self._run.party.peers.items():
            for mail in peer.inbox:
                frames = encode(mail.message, [mail.payload])
                self.came(name, mail.message, header_in(frames[0]), mail.payload)

    def left(self, peer: str, message: Message, header: Buffer, payload: Sequence[Buffer]) -> None:
        """See `Tap`."""
        if not isinstance(message, LEFT_OUT):
            self._add(SENT, peer, header, *payload)

    def came(self, peer: str, message: Message, header: Buffer, payload: Buffer) -> None:
        """See `Tap`."""
        if not isinstance(message, LEFT_OUT):
            self._add(CAME, peer, header, payload)

    def close(self) -> None:
        """See `NoRecord`."""
        self._writer = None
        with self._run.harmless("the record"):
            self._file.close()

    def _begin(self, mark: Mark, content: bytes) -> None:
        self.close()
        self._number += 1
        segment = Segment.named(self._run.result.folder, self._number, mark)
        try:
            delete_old(self._home)
            own_folder(self._folder)
            self._writer = SealedWriter(
                self._file.enter_context(new_file(segment.path)), self._key.key
            )
            self._writer.add(encoded(self._beginning(mark)))
            self._writer.add(content)
            note_use(self._home, self._key)
        except Exception as error:
            self._stop(segment.path, error)

    def _beginning(self, mark: Mark) -> Beginning:
        run, peers = self._run, self._run.party.peers
        evidence, counts = dict[str, bytes](), dict[str, int]()
        if run.plan.limits != LeakLimits():
            evidence, counts = run.opened_ledger().kept_of(TASK)
        return Beginning(
            number=self._number,
            launch=self._launch,
            mark=mark,
            role=run.party.role,
            task=run.task_id,
            party=run.party.name,
            record=run.kept_record,
            mask_keys=run.agreement.mask_keys,
            mask_secrets=run.mask_secrets,
            sum_key=run.sum_key,
            summed=tuple(name for name, each in peers.items() if each.session.sites.sums),
            evidence=evidence,
            counts=counts,
            trainable={name: peer.session.trainable for name, peer in peers.items()},
            simulated=run.simulated,
            program=this_program(),
            versions=versions(),
        )

    def _add(self, kind: int, peer: str = "", header: Buffer = b"", *payload: Buffer) -> None:
        if self._writer is None:
            return
        try:
            self._writer.add(*entry_parts(kind, peer, header, *payload))
        except Exception as error:
            self._stop(self._folder, error)

    def _stop(self, path: Path, error: Exception) -> None:
        """Record no more up to the next checkpoint."""
        self.close()
        logger.warning(
            "%s cannot be written (%s): nothing is recorded up to the next checkpoint; make room"
            " there",
            path,
            getattr(error, "strerror", None) or place_of(error),
        )
