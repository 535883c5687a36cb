"""Sends messages between rank 0 and the other ranks of one party: an object, and tensors.

All of these processes run the same script for the same user, so objects are pickled. Nothing of
this reads bytes of another party.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from heterofed.errors import RankLostError

NEVER = timedelta(days=3650)
"""The longest time that a rank waits for its next order, while rank 0 waits for other parties."""


class Exchange:
    """The connections of this rank to the others.

    Args:
        deadline: returns the longest time in seconds to wait for an answer; 0 sets no limit.
        by_value: whether the other ranks run another script than rank 0, so that classes of that
            script are sent with the objects.
    """

    def __init__(self, deadline: Callable[[], float], *, by_value: bool = False) -> None:
        self.deadline = deadline
        self._by_value = by_value
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self._group: Any = dist.new_group(backend="gloo", timeout=NEVER)
        # Their tensors must live until they are sent.
        self._sending: dict[int, list[tuple[Any, Tensor]]] = {}

    def send(self, rank: int, order: object, tensors: Sequence[Tensor] = ()) -> None:
        """Send an object and tensors to a rank, without waiting until they have arrived.

        Raises:
            RankLostError: the rank has ended.
        """
        head = self.pickled((order, [(each.dtype, tuple(each.shape)) for each in tensors]))
        parts = [_bytes_of(each) for each in tensors]
        body = torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8, device="cpu")
        sizes = torch.tensor([len(head), len(body)], device="cpu")
        header = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        with self._naming(rank):
            self._sent(rank)
            for each in (sizes, header, body):
                if len(each):
                    work = dist.isend(each, rank, group=self._group)
                    self._sending[rank].append((work, each))

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
            RankLostError: the rank has ended, or was silent until the deadline.
        """
        timeout = NEVER if idle else self._limit()
        with self._naming(rank):
            sizes = self._came(rank, 2, torch.int64, timeout).tolist()
            head = self._came(rank, sizes[0], torch.uint8, timeout)
            body = self._came(rank, sizes[1], torch.uint8, timeout)
            self._sent(rank)
        order, forms = pickle.loads(head.numpy().tobytes())  # noqa: S301
        return order, list(_tensors_in(body, forms))

    def close(self) -> None:
        """Wait until everything is sent."""
        for rank in list(self._sending):
            with self._naming(rank):
                self._sent(rank)

    def _came(self, rank: int, size: int, dtype: torch.dtype, timeout: timedelta) -> Tensor:
        buffer = torch.empty(size, dtype=dtype, device="cpu")
        if size:
            work: Any = dist.irecv(buffer, rank, group=self._group)
            work.wait(timeout)
        return buffer

    def _sent(self, rank: int) -> None:
        for work, _ in self._sending.get(rank, ()):
            work.wait(self._limit())
        self._sending[rank] = []

    def _limit(self) -> timedelta:
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
