"""Holds what a session counts: values, batches, requests, sums over sites and sizes of weights."""

from __future__ import annotations

from collections import deque

from heterofed.protocol.messages import GRADIENT_DTYPES, ModelLayout, TensorSpec

MASKED_ITEM_BYTES = 8
"""The bytes of one masked number, an int64."""


class PsiCounts:
    """Counts the values of an intersection that were sent.

    Attributes:
        width: the bytes of a value.
    """

    def __init__(self, width: int = 0) -> None:
        self.asked = self.to_sign = self.to_tag = 0
        self.blinded = self.signed = self.tagged = self.tags = self.matched = 0
        self.width = width
        self.kept = self.renewed = False
        self.unsigned: deque[tuple[int, int]] = deque()

    def note_blinded(self, values: int, size: int) -> None:
        """Note a chunk of blinded values of `size` bytes, which waits to be signed."""
        self.blinded += values
        self.unsigned.append((values, size))


class StoredCounts:
    """Counts what was sent in a request to a stored set.

    Attributes:
        offered, to_fetch: the bytes of the filter, and those that are still to come.
        asked, blinded, claimed: the numbers of ids that the Host asks for, that it has sent, and
            that it has claimed as hits.
        all_claimed: whether the last claims were sent.
        unevaluated, unanswered: the numbers of values of the chunks of ids and of claims that wait
            for their answers.
    """

    def __init__(self) -> None:
        self.offered = self.to_fetch = self.asked = self.blinded = self.claimed = 0
        self.all_claimed = False
        self.unevaluated: deque[int] = deque()
        self.unanswered: deque[int] = deque()


class ServedCounts:
    """Counts the requests of a standing link.

    Attributes:
        asked: the number of requests that were sent.
        open: the rows of each request without an answer.
        proposed: whether a further version was asked for and not answered.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.open: deque[int] = deque()
        self.proposed = False

    @property
    def next(self) -> int:
        """The number of the oldest request without an answer."""
        return self.asked - len(self.open)


class SiteCounts:
    """Counts the sums over the sites of a role since the parties connected.

    Attributes:
        has_rows: whether the rows of the next batches were told.
        batches: the number of batches of the round or test.
        shares, sums: the numbers of parts and of sums that were sent.
        size: the bytes of each part; 0 before the first one.
    """

    def __init__(self) -> None:
        self.has_rows = False
        self.shares = self.sums = self.size = self.batches = 0

    def go_on(self) -> None:
        """Take up a connection in which there were sums before, for a replay."""
        self.shares = self.sums = 1


class BatchCounts:
    """Counts the batches of a round or test that were sent and processed.

    Args:
        first: the number of the first batch.

    Attributes:
        sent, done: the numbers of the next batch to send and to process.
        seen, told: the same for gradients whose tags were sent, and passed on.
        shared, summed: the same for parts of a sum over sites, and for the sums.
        answers: how many times the oldest batch was answered.
        open_bytes: the bytes of the batches that were sent and not processed.
    """

    def __init__(self, first: int = 0) -> None:
        self.sent = self.done = self.seen = self.told = first
        self.shared = self.summed = first
        self.answers = 0
        self.open_bytes = 0
        self._specs: deque[tuple[TensorSpec, ...]] = deque()
        self._sizes: deque[int] = deque()

    @property
    def open(self) -> int:
        """The number of batches that were sent and not processed."""
        return self.sent - self.done

    def may_answer(self, tensors: tuple[TensorSpec, ...], sums: bool) -> bool:
        """Return whether gradients fit the batch: their forms equal those of the features.

        Masked features are integers, so only the shapes are compared with them.
        """
        if tensors == self._specs[0] and not sums:  # as nearly always
            return all(t.dtype in GRADIENT_DTYPES for t in tensors)
        sent = {spec.name: spec for spec in self._specs[0]}
        return all(
            t.name in sent
            and sent[t.name].shape == t.shape
            and t.dtype in GRADIENT_DTYPES
            and (sums or sent[t.name].dtype == t.dtype)
            for t in tensors
        )

    def note_features(self, tensors: tuple[TensorSpec, ...], size: int) -> None:
        """Note a batch of features with a payload of `size` bytes."""
        self.sent += 1
        self.open_bytes += size
        self._sizes.append(size)
        self._specs.append(tensors)

    def note_done(self) -> None:
        """Note that the oldest batch was processed."""
        self.done += 1
        self.answers = 0
        self.open_bytes -= self._sizes.popleft()
        self._specs.popleft()


class WeightSizes:
    """Holds the sizes of a model's weights in bytes; 0 before they are known, as in a resumed
    run.

    Attributes:
        asked: whether the weights were asked for, and not only their layout.
        plain, masked: the bytes of all weights as they are, and of their masked sum.
    """

    def __init__(self) -> None:
        self.asked = False
        self.plain = self.masked = 0

    def note_layout(self, layout: ModelLayout) -> None:
        """Note the sizes of the weights of a layout."""
        self.plain = sum(spec.nbytes for spec in layout.tensors)
        self.masked = sum(spec.items for spec in layout.tensors) * MASKED_ITEM_BYTES
