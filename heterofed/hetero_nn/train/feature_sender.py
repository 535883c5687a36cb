"""One round's (or test's) features on their way from a Collaborator to the Host, within credit."""

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
    """Sends batches, takes gradients, and counts what the Host has dealt with.

    Args:
        party: the Collaborator.
        host: where to.
        first: number of the first batch.
        witness: compares gradients with the other Collaborators', where features are summed.
    """

    def __init__(
        self, party: Party, host: Peer, first: int = 0, witness: Witness | None = None
    ) -> None:
        self._party = party
        self._host = host
        self._sent = self._done = first
        self._since, self._waited = party.clock(), self._waits()
        self._witness = witness
        self._early: deque[Mail] = deque()  # came while this party waited for the others' tags

    @property
    def number(self) -> int:
        """Of the batch that is sent next, from 0."""
        return self._sent

    @property
    def compares(self) -> bool:
        """Whether each batch's gradients are compared with what the other Collaborators got."""
        return self._witness is not None

    def send(self, batch: FeatureBatch, order: bytes | None = None) -> None:
        """Send the next batch; waits while all credit is used.

        Args:
            batch: the features, as they are to travel.
            order: digest of the rows' ids (see `order.py`).
        """
        while self._host.session.batch_window < 1:
            self._take_done()
        with self._party.encoding(self._host, "sent"):
            specs, payload = pack(
                batch.tensors, self._host.session.feature_coding, self._party.name
            )
        size, most = sum(spec.nbytes for spec in specs), self._host.session.max_batch_bytes
        if size > most:
            raise FeatureError(
                f"a batch of {size} bytes of features; at most {most} may travel at once, so use a"
                " smaller batch size at every party"
            )
        message = Features(
            self._party.round,
            self._sent,
            specs[0].shape[0],
            batch.layout,
            specs,
            ids=order,
            busy=self._busy(),
        )
        try:
            # Handed over when this returns: the hook may use the same memory for its next batch.
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
        """Wait for what the Host answers to the oldest open batch, until it is done with it.

        Yields:
            dL/dfeatures by tensor name, on the CPU, each time they come: the last are the ones
            that count. Nothing where the loss did not use the features.

        Raises:
            NonFiniteError: they hold NaN or infinity.
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
            # Nor may steps be as many behind at one party, and at another not.
            seen.update(self._host.session.staleness.to_bytes(8, "big"))
            self._compare(self._witness, number, seen.digest())

    def end(self) -> None:
        """Announce that this was all."""
        self._party.batch = None
        self._party.post(self._host, EndOfFeatures(self._party.round, self._sent))

    def settle(self) -> None:
        """Wait until the Host is done with every batch."""
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
        """Microseconds of work since this was asked last."""
        now, waits = self._party.clock(), self._waits()
        busy = now - self._since - (waits - self._waited)
        self._since, self._waited = now, waits
        return max(0, int(busy * 1e6))

    def _waits(self) -> float:
        return self._party.account.waits[self._host.name]

    def _take_done(self) -> None:
        self._party.take(self._host, BatchDone)
        self._done += 1
