"""Sends messages between rank 0 and the other ranks of one party: an object, and tensors.

All of these processes run the same script for the same user, so objects are pickled. What comes is
unpickled only after its tag has shown that it is from one of them. Nothing of this reads bytes of
another party.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from heterofed.compute.workers.seal import SIZE, Seal, drawn
from heterofed.errors import RankLostError

LEAD = 16 + 2 * SIZE
"""The length in bytes of what precedes a message: two sizes, and two tags."""

STARTS_WITHIN = timedelta(seconds=180)
"""The longest time that the processes take to import torch and to connect."""

FINDS_WITHIN = 2.0
"""The longest time in seconds to ask a rank whether it has ended."""

NEVER = timedelta(days=3650)
"""The longest time that a rank waits for its next order, while rank 0 waits for other parties."""


class Exchange:
    """The connections of this rank to the others.

    Args:
        deadline: returns the longest time in seconds to wait for an answer; 0 sets no limit.
        secret: the secret that all ranks of this party have.
        by_value: whether the other ranks run another script than rank 0, so that classes of that
            script are sent with the objects.

    Raises:
        RankLostError: another rank does not have the secret.
    """

    def __init__(
        self, deadline: Callable[[], float], secret: bytes, *, by_value: bool = False
    ) -> None:
        self.deadline = deadline
        self._by_value = by_value
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self._group: Any = dist.new_group(backend="gloo", timeout=NEVER)
        # Their tensors must live until they are sent.
        self._sending: dict[int, list[tuple[Any, Tensor]]] = {}
        others = range(1, self.ranks) if self.rank == 0 else [0]
        self._seals = {rank: self._meet(rank, secret) for rank in others}

    def _meet(self, rank: int, secret: bytes) -> Seal:
        """Agree on the key of this launch with a rank, and check that it knows the secret."""
        mine = drawn()
        with self._naming(rank):
            self._post(rank, mine)
            theirs = _bytes_in(self._came(rank, SIZE, STARTS_WITHIN))
            numbers = (theirs, mine) if self.rank else (mine, theirs)
            seal = Seal(secret, numbers, self.rank, rank)
            self._post(rank, seal.tag())
            answer = _bytes_in(self._came(rank, SIZE, STARTS_WITHIN))
            self._sent(rank)
        seal.check(answer)
        return seal

    def send(self, rank: int, order: object, tensors: Sequence[Tensor] = ()) -> None:
        """Send an object and tensors to a rank, without waiting until they have arrived.

        Raises:
            RankLostError: the rank has ended.
        """
        head = self.pickled((order, [(each.dtype, tuple(each.shape)) for each in tensors]))
        parts = [_bytes_of(each) for each in tensors]
        body = torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8, device="cpu")
        sizes = struct.pack("<2Q", len(head), len(body))
        # The sizes have a tag of their own, because memory is taken for them.
        lead = sizes + self._seals[rank].tag(sizes)
        with self._naming(rank):
            self._sent(rank)
            self._post(rank, lead + self._seals[rank].tag(head, body.numpy().data))
            self._post(rank, head)
            self._post(rank, body)

    def pickled(self, value: object) -> bytes:
        """Return an object as bytes, which `pickle.loads` reads at the other ranks."""
        if not self._by_value:
            return pickle.dumps(value)
        import cloudpickle

        found: bytes = cloudpickle.dumps(value)
        return found

    def receive(self, rank: int, *, idle: bool = False) -> tuple[Any, list[Tensor]]:
        """Wait for an object and tensors from a rank.

        Args:
            rank: the rank that sends them.
            idle: whether to wait for as long as it takes.

        Raises:
            RankLostError: the rank has ended, was silent until the deadline, or it was not a rank
                of this party that sent what came.
        """
        timeout, seal = NEVER if idle else self.limit(), self._seals[rank]
        with self._naming(rank):
            first = _bytes_in(self._came(rank, LEAD, timeout))
        sizes, of_sizes, tag = first[: -2 * SIZE], first[-2 * SIZE : -SIZE], first[-SIZE:]
        seal.check(of_sizes, sizes)
        head_size, body_size = struct.unpack("<2Q", sizes)
        with self._naming(rank):
            head = _bytes_in(self._came(rank, head_size, timeout))
            body = self._came(rank, body_size, timeout)
            self._sent(rank)
        seal.check(tag, head, body.numpy().data)
        # A process of this party has made it, as its tag says.
        order, forms = pickle.loads(head)  # noqa: S301
        return order, list(_tensors_in(body, forms))

    def answer(self, rank: int) -> list[Tensor]:
        """Wait for the answer of a rank to an order.

        Raises:
            RankLostError: the rank was lost.
            RuntimeError: an error was raised there.
        """
        error, tensors = self.receive(rank)
        if error is not None:
            raise RuntimeError(f"the feature model failed at rank {rank}: {error}")
        return tensors

    @contextmanager
    def together(self, *, only_links: bool = False) -> Iterator[None]:
        """Enclose what all ranks do at the same time.

        Args:
            only_links: whether errors of other kinds may be raised within the block.

        Raises:
            RankLostError: another rank has ended, or did not take part until the deadline.
        """
        try:
            yield
        except RuntimeError as error:
            if only_links and not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise self._lost() from error

    def _lost(self) -> RankLostError:
        """Return the error of the rank because of which all ranks could not go on."""
        self.deadline = lambda: FINDS_WITHIN
        for rank in range(1, self.ranks) if self.rank == 0 else ():
            try:
                self.receive(rank)
            except RankLostError as error:
                if "imed out" not in str(error.__cause__):  # it has ended
                    return error
        return RankLostError(
            f"one of the {self.ranks} processes of this party has not taken part in computing the"
            f" feature model; {RankLostError.remedy}"
        )

    def close(self) -> None:
        """Wait until everything is sent."""
        for rank in list(self._sending):
            with self._naming(rank):
                self._sent(rank)

    def _post(self, rank: int, data: bytes | Tensor) -> None:
        if not len(data):
            return
        given = (
            torch.frombuffer(bytearray(data), dtype=torch.uint8)
            if isinstance(data, bytes)
            else data
        )
        work = dist.isend(given, rank, group=self._group)
        self._sending.setdefault(rank, []).append((work, given))

    def _came(self, rank: int, size: int, timeout: timedelta) -> Tensor:
        buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
        if size:
            work: Any = dist.irecv(buffer, rank, group=self._group)
            work.wait(timeout)
        return buffer

    def _sent(self, rank: int) -> None:
        for work, _ in self._sending.get(rank, ()):
            work.wait(self.limit())
        self._sending[rank] = []

    def limit(self) -> timedelta:
        """Return the longest time to wait for another rank."""
        seconds = self.deadline()
        return timedelta(seconds=seconds) if seconds else NEVER

    @contextmanager
    def _naming(self, rank: int) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            limit = self.deadline()
            silent = f", or has not answered for {limit:.0f} s" if limit else ""
            raise RankLostError(
                f"rank {rank} of the {self.ranks} processes of this party has ended{silent};"
                f" {RankLostError.remedy}"
            ) from error


def _bytes_in(buffer: Tensor) -> bytes:
    return buffer.numpy().tobytes()


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _tensors_in(
    body: Tensor, forms: Sequence[tuple[torch.dtype, tuple[int, ...]]]
) -> Iterator[Tensor]:
    start = 0
    for dtype, shape in forms:
        count = torch.Size(shape).numel()
        part = body[start : start + count * dtype.itemsize]
        start += len(part)
        # A copy lies at an address that the dtype may have.
        yield part.clone().view(dtype).reshape(shape)
