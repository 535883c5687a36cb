"""Masked sums: the Host adds up the embeddings of two or more Collaborators without seeing one.

Each pair of Collaborators shares a secret that the Host does not have. For every batch both derive
the same random numbers from it; one adds them to its embedding, and the other subtracts them. Each
Collaborator sends uniform numbers, and in the sum of all the masks cancel (Bonawitz et al., CCS
2017, without their second mask, see below). Numbers are fixed-point, modulo 2^64, so that they
cancel exactly. The secrets come from `mask_keys`.

If a party drops out of a batch, its masks do not cancel, and the batch is void. The others never
mask the same batch again for fewer parties, because the difference of the two sums would be the
embedding of the missing party. They continue with the next batch as long as two remain; the
schedulers roll back to a checkpoint of all parties, with fresh keys.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from torch import Tensor

from heterofed.errors import ConfigError, FeatureError, LocalProtocolError, RemoteProtocolError

FRACTION_BITS = 32
"""Embeddings are rounded to multiples of 2^-32."""


class Masker:
    """Masks the embeddings of one party, and each batch only once.

    Args:
        party: the feature key of this party.
        shared: the secret with each other Collaborator, from `mask_keys.MaskKey.secret_with`.

    Raises:
        ConfigError: there is no other Collaborator, so the sum would be the embedding.
    """

    def __init__(self, party: str, shared: Mapping[str, bytes]) -> None:
        if not shared or party in shared:
            raise ConfigError(
                "a masked sum needs two Collaborators or more, because the sum of one is its"
                " embedding; add another, or use fusion='separate'"
            )
        self._party = party
        self._shared = dict(shared)
        self._masked = (0, -1)

    def mask(
        self, rows: Tensor, *, round_number: int, batch: int, others: Collection[str] | None = None
    ) -> Tensor:
        """Return the masked embedding to send.

        Args:
            rows: the embedding, floats of any shape.
            round_number: the number of the round, from 1; batches are masked in order.
            batch: the number of the batch in the round, from 0.
            others: the other Collaborators in this batch; all of them by default.

        Returns:
            An int64 tensor of the same shape, which is uniform for anybody without the secrets.

        Raises:
            LocalProtocolError: this batch or a later one was masked before.
            ConfigError: no other Collaborator is in this batch.
            FeatureError: an embedding is not finite, or too large for fixed-point numbers.
        """
        if (round_number, batch) <= self._masked:
            raise LocalProtocolError("a batch is masked only once: two sums tell more than one")
        peers = sorted(self._shared) if others is None else sorted(others)
        if not peers or not self._shared.keys() >= set(peers):
            raise ConfigError(
                f"{self._party} shares no masks with the parties of this batch; give the names of"
                " those that it shares masks with"
            )
        self._masked = round_number, batch
        total = encoded(rows, len(peers) + 1)
        members = b"".join(sha256(each.encode()).digest() for each in sorted([*peers, self._party]))
        place = (
            round_number.to_bytes(8, "big") + batch.to_bytes(8, "big") + sha256(members).digest()
        )
        with np.errstate(over="ignore"):
            for peer in peers:
                stream = mask_stream(self._shared[peer], place, total.size)
                total = total + stream if self._party < peer else total - stream
        return torch.from_numpy(total.view(np.int64).reshape(tuple(rows.shape)))


class Masks:
    """The maskers of a run, one for training and one for tests, until the parties connect again.

    Args:
        party: the feature key of this party.
        shared: the secret with each other Collaborator.
    """

    def __init__(self, party: str, shared: Mapping[str, bytes]) -> None:
        self.shared = shared
        self._maskers = {
            phase: Masker(
                party,
                {name: hmac.digest(each, phase.encode(), sha256) for name, each in shared.items()},
            )
            for phase in ("train", "test")
        }

    def mask(self, rows: Tensor, phase: str, round_number: int, batch: int) -> Tensor:
        """See `Masker.mask`; `phase` is train or test."""
        return self._maskers[phase].mask(rows, round_number=round_number, batch=batch)


def encoded(rows: Tensor, parties: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return the numbers as a flat array of fixed-point numbers modulo 2^64.

    Raises:
        FeatureError: a number is not finite, or so large that the sum over the parties could
            overflow.
    """
    limit = 2.0 ** (63 - FRACTION_BITS) / parties
    plain = rows.detach().to("cpu", torch.float64).reshape(-1)
    if plain.numel() and not bool((plain.abs() < limit).all()):  # false for NaN, too
        raise FeatureError(
            f"an embedding is not finite, or not below {limit:g}, so a masked sum has no room for"
            " it;"
            " lower the learning rate, or end the feature model in a bounded layer"
        )
    return (plain * 2.0**FRACTION_BITS).round().to(torch.int64).numpy().view(np.uint64)


def masked_sum(parts: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the sum of the embeddings from the masked embeddings of all parties of a batch.

    Args:
        parts: the masked embeddings, int64 tensors of one shape.
        dtype: the dtype of the result.

    Raises:
        RemoteProtocolError: the shapes differ, or a dtype is not int64.
    """
    if len({tuple(each.shape) for each in parts}) != 1 or any(
        each.dtype != torch.int64 for each in parts
    ):
        raise RemoteProtocolError(
            "masked embeddings must be int64, and of one shape at all parties;"
            f" {RemoteProtocolError.remedy}"
        )
    total = parts[0].clone()
    for each in parts[1:]:
        total += each  # int64 addition is modulo 2^64
    return total.to(torch.float64).div_(2.0**FRACTION_BITS).to(dtype)


def mask_stream(
    secret: bytes, place: bytes, count: int
) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return the uniform numbers that all who have a secret draw for one place, such as a batch."""
    key = hmac.digest(secret, b"batch" + place, sha256)
    cipher = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(cipher.update(bytes(8 * count)), dtype="<u8")
