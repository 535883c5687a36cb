"""One round's (or test's) features on their way from a Collaborator to the Host, within credit."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from heterofed.errors import FeatureError, LocalProtocolError
from heterofed.party import Party
from heterofed.peers import Peer
from heterofed.protocol.messages import BatchDone, EndOfFeatures, Features, Gradients
from heterofed.tensors import Layout, check_finite, pack, unpack
from heterofed.wire import payload_size


class FeatureFeed:
    """Sends batches, takes gradients, and counts what the Host has dealt with.

    Args:
        party: the Collaborator.
        host: where to.
    """

    def __init__(self, party: Party, host: Peer) -> None:
        self._party = party
        self._host = host
        self._sent = self._done = 0

    def send(self, layout: Layout, tensors: dict[str, Tensor]) -> None:
        """Send the next batch; waits while all credit is used."""
        while self._host.session.batch_window < 1:
            self._take_done()
        specs, payload = pack(tensors)
        size, most = payload_size(payload), self._host.session.max_batch_bytes
        if size > most:
            raise FeatureError(
                f"a batch of {size} bytes of features; at most {most} may travel at once, so use a"
                " smaller batch size at every party"
            )
        message = Features(self._party.round, self._sent, specs[0].shape[0], layout, specs)
        try:
            self._party.post(self._host, message, payload)
        except LocalProtocolError as error:
            raise FeatureError(
                f"{error}; yield the same layout, names, dtypes and number of dimensions in every"
                " batch"
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
        """
        while True:
            mail = self._party.take(self._host, Gradients, BatchDone)
            if isinstance(mail.message, BatchDone):
                self._done += 1
                return
            gradients = unpack(mail.of(Gradients).tensors, mail.payload, self._host.name)
            check_finite(gradients, "the gradient of the features", self._host.name)
            yield gradients

    def end(self) -> None:
        """Announce that this was all, and wait until the Host is done with every batch."""
        self._party.batch = None
        self._party.post(self._host, EndOfFeatures(self._party.round, self._sent))
        while self._done < self._sent:
            self._take_done()

    def _take_done(self) -> None:
        self._party.take(self._host, BatchDone)
        self._done += 1
