"""Sends the features of a round or test from a Collaborator to the Host, within its credit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from hashlib import sha256

from torch import Tensor

from heterofed.compute.features import FeatureBatch
from heterofed.compute.tensors import check_finite, pack, unpack
from heterofed.errors import FeatureError, LocalProtocolError
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Mail, Peer
from heterofed.privacy.witness import Witness
from heterofed.protocol.messages import (
    BatchDone,
    EndOfFeatures,
    Features,
    Gradients,
    GradientsSeen,
    Message,
    SeenByOthers,
)


class FeatureFeed:
    """Sends batches, receives gradients, and counts the batches that the Host has processed.

    Args:
        party: the Collaborator.
        host: the Host.
        first: the number of the first batch.
        witness: compares gradients with those of the other Collaborators if features are summed.
    """

    def __init__(
        self, party: Party, host: Peer, first: int = 0, witness: Witness | None = None
    ) -> None:
        self._party = party
        self._host = host
        self._sent = self._done = first
        self._since, self._waited = party.clock(), self._waits()
        self._witness = witness
        # Messages that came during the wait for the others' tags.
        self._early: deque[Mail] = deque()

    @property
    def number(self) -> int:
        """The number of the next batch, from 0."""
        return self._sent

    @property
    def compares(self) -> bool:
        """Whether the gradients of each batch are compared with those of the other
        Collaborators.
        """
        return self._witness is not None

    def send(
        self, batch: FeatureBatch, order: bytes | None = None, what: str = "the features"
    ) -> None:
        """Send the next batch, after waiting for credit if necessary.

        Args:
            batch: the features in the form in which they are sent.
            order: the digest of the rows' ids (see `row_order`).
            what: what the features are, for errors.

        Raises:
            FeatureError: the batch is too large, or has another form than those before it.
            NonFiniteError: features on a GPU hold NaN or infinity; others were checked before.
        """
        while self._host.session.batch_window < 1:
            self._take_done()
        with self._party.encoding(self._host, "sent"):
            coding, name = self._host.session.feature_coding, self._party.name
            specs, payload = pack(batch.tensors, coding, name, unchecked=what)
        size, most = sum(spec.nbytes for spec in specs), self._host.session.max_batch_bytes
        if size > most:
            raise FeatureError(
                f"a batch of {size} bytes of features; at most {most} may travel at once, so use a"
                " smaller batch size at every party"
            )
        message = Features(
            self._party.round,
            self._sent,
            batch.rows,
            batch.layout,
            specs,
            ids=order,
            busy=self._busy(),
        )
        try:
            # The frames are passed to the transport before this returns, because the hook may reuse
            # the memory for its next batch.
            self._party.post(self._host, message, payload)
        except LocalProtocolError as error:
            raise FeatureError(
                f"{error}; yield the same layout, names, dtypes and number of dimensions in every"
                " batch",
                party=self._party.name,
            ) from None
        self._sent += 1
        self._party.progress(self._sent)

    def answers(self) -> Iterator[dict[str, Tensor]]:
        """Wait for the Host's answers to the oldest open batch, until the Host is done with it.

        Yields:
            dL/dfeatures by tensor name, on the CPU, each time they arrive; the last ones are final.
            Nothing is yielded if the loss did not use the features.

        Raises:
            NonFiniteError: the gradients hold NaN or infinity.
            RemoteProtocolError: features are summed, and another Collaborator got other gradients.
        """
        number, done, seen = self._done, False, sha256()
        while not done:
            mail = self._early.popleft() if self._early else self._take_answer()
            done = isinstance(mail.message, BatchDone) or mail.of(Gradients).done
            self._done += done
            if isinstance(mail.message, BatchDone):
                break
            if self._witness is not None:
                seen = sha256(repr(mail.of(Gradients).tensors).encode() + mail.payload)
            with self._party.encoding(self._host, "received"):
                gradients = unpack(
                    mail.of(Gradients).tensors,
                    mail.payload,
                    self._host.name,
                    coding=self._host.session.gradient_coding,
                )
                check_finite(gradients, "the gradient of the features", self._host.name)
            yield gradients
        if self._witness is not None:
            # All parties must also have the same number of steps.
            seen.update(self._host.session.staleness.to_bytes(8, "big"))
            self._compare(self._witness, number, seen.digest())

    def end(self) -> None:
        """Announce that there are no more batches."""
        self._party.batch = None
        self._party.post(self._host, EndOfFeatures(self._party.round, self._sent))

    def settle(self) -> None:
        """Wait until the Host has processed every batch."""
        while self._done < self._sent:
            self._take_done()

    def _take_answer(self, *more: type[Message]) -> Mail:
        return self._party.take(self._host, Gradients, BatchDone, *more)

    def _compare(self, witness: Witness, number: int, seen: bytes) -> None:
        """Wait until all Collaborators have seen the same gradients of a batch."""
        round_number = self._party.round
        tags = witness.tags(round_number, number, seen)
        self._party.post(self._host, GradientsSeen(round_number, number, tags))
        mail = self._take_answer(SeenByOthers)
        while not isinstance(mail.message, SeenByOthers):
            self._early.append(mail)
            mail = self._take_answer(SeenByOthers)
        witness.check(round_number, number, seen, mail.message.tags, self._host.name)

    def _busy(self) -> int:
        """Return the microseconds of work since the last call."""
        now, waits = self._party.clock(), self._waits()
        busy = now - self._since - (waits - self._waited)
        self._since, self._waited = now, waits
        return max(0, int(busy * 1e6))

    def _waits(self) -> float:
        return self._party.counts.waits[self._host.name]

    def _take_done(self) -> None:
        self._party.take(self._host, BatchDone)
        self._done += 1
