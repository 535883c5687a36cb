"""Masks the updates of the parties, so that the Host can read nothing but their sum.

The masks are those of `heterofed.privacy.masking`. If a party is lost, its masks do not cancel, and
the round is void: all go back to the last checkpoint, connect again with fresh keys and train the
round once more. So a lost party costs the others one round of training.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256

import torch
from torch import Tensor

from heterofed.compute.tensors import check_finite
from heterofed.errors import FeatureError, RemoteProtocolError
from heterofed.homo_nn.weights import Layout, apart, flat
from heterofed.privacy.masking import FRACTION_BITS, Masker, masked_sum

ITEM_BYTES = 8


class UpdateMasks:
    """The masks of one party, until the parties connect again.

    Args:
        party: the feature key of this party.
        shared: the secret with each other Collaborator.
    """

    def __init__(self, party: str, shared: Mapping[str, bytes]) -> None:
        self._party = party
        own = {name: hmac.digest(each, b"updates", sha256) for name, each in shared.items()}
        self._masker = Masker(party, own)

    def masked(
        self, update: Mapping[str, Tensor], factor: int, round_number: int, summed: Collection[str]
    ) -> memoryview:
        """Return the bytes to send: the update times `factor`, masked.

        Args:
            update: the tensors of the update.
            factor: the weight of this party.
            round_number: the number of the round; each is masked once.
            summed: the parties of the sum.

        Raises:
            NonFiniteError: the update holds NaN or infinity.
            FeatureError: a number times the factor is too large for the sum.
        """
        check_finite(update, "the update", self._party)
        numbers = flat(update) * factor
        limit = 2.0 ** (63 - FRACTION_BITS) / len(summed)
        if not bool((numbers.abs() < limit).all()):
            raise FeatureError(
                f"a weight times {factor} rows is {limit:g} or more, for which secure aggregation"
                " has no room: give weighting='equal', or smaller weights",
                party=self._party,
            )
        others = [name for name in summed if name != self._party]
        masked = self._masker.mask(numbers, round_number=round_number, batch=0, others=others)
        return masked.numpy().data.cast("B")


def unmasked_sum(layout: Layout, payloads: Mapping[str, bytearray]) -> dict[str, Tensor]:
    """Return the sum of masked updates as float64 tensors by name.

    Args:
        layout: the layout that all parties have.
        payloads: the masked update of each party of the sum, by feature key.

    Raises:
        RemoteProtocolError: the bytes of a party are not one masked number for each weight.
    """
    size = sum(each.items for each in layout) * ITEM_BYTES
    parts: Sequence[Tensor] = [_part(payload, size, party) for party, payload in payloads.items()]
    return apart(layout, masked_sum(parts, torch.float64))


def _part(payload: bytearray, size: int, party: str) -> Tensor:
    if len(payload) != size:
        raise RemoteProtocolError(
            f"{party} sent a masked update of another size than its model has; compare the"
            " versions of heterofed at both parties",
            party=party,
        )
    return torch.frombuffer(payload, dtype=torch.int64)
