"""Forecasts how long a task takes and what it sends, from what a probe has measured; pure.

The formulas follow the protocol. In an intersection the Host blinds its ids while the Collaborator
signs those that have come and then computes the tags of its own. In training every batch waits for
one round trip, because the default staleness is 0; in tests nothing waits for an answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from heterofed.protocol.limits import TAG_BYTES
from heterofed.protocol.messages import Facts, LinkFacts, Work
from heterofed.protocol.plan import Plan

TRAIN_SHARE = 0.8
"""The share of train ids that `split_dataset` takes by default."""

FLOAT_BYTES = 4
"""The bytes of one number of the features, which are float32."""

TESTS = 2
"""The number of tests by default: after the first round and after the last."""

TEST_SHARE = 0.4
"""The share of a training step that a batch of a test takes, which has no backward pass."""

FEATURES_BYTES, GRADIENTS_BYTES, DONE_BYTES = 150, 90, 50
"""The bytes of a message beside its tensors: `Features`, `Gradients` and `BatchDone`."""

KEY_BYTES = {"rsa": 2_600, "ecdh": 100}
"""About the bytes of the Collaborator's public key, with the proof that an RSA key is sound."""

PSI_TURNS = 6
"""The number of round trips in an intersection that nothing else hides."""


@dataclass(frozen=True, slots=True)
class Phase:
    """The forecast of one phase.

    Attributes:
        seconds: the time of the phase.
        to_host: the bytes that the Collaborator sends.
        from_host: the bytes that the Host sends to it.
    """

    seconds: float
    to_host: int
    from_host: int


def psi_forecast(work: Work, host: Facts, shop: Facts, link: LinkFacts) -> Phase:
    """Return the forecast of the intersection of a Host with one Collaborator.

    Args:
        work: the numbers of ids, and the protocol.
        host: what was measured at the Host.
        shop: what was measured at the Collaborator.
        link: what was measured between them.
    """
    plan = Plan(host="host", collaborators=("shop",), psi_protocol=work.protocol)
    values = work.ids * plan.psi_value_bytes
    to_host = values + shop.ids * TAG_BYTES + KEY_BYTES[work.protocol]
    from_host = values + work.common * TAG_BYTES
    here = work.ids * host.ask
    there = work.ids * shop.sign + shop.ids * shop.tag
    longest = max(here, there, to_host / link.up, from_host / link.down)
    if is_shared(host, shop):  # both work at once, and have been measured alone
        longest = max(longest, (here * host.busy + there * shop.busy) / host.cores)
    return Phase(shop.start + longest + PSI_TURNS * link.rtt, to_host, from_host)


def is_shared(host: Facts, shop: Facts) -> bool:
    """Return whether both parties are known to be on one machine, whose cores they share."""
    return bool(host.machine) and host.machine == shop.machine


def train_forecast(work: Work, host: Facts, shop: Facts, link: LinkFacts) -> Phase:
    """Return the forecast of all rounds of a training with one Collaborator, and of its tests.

    Args:
        work: the numbers of rows, rounds and features.
        host: what was measured at the Host.
        shop: what was measured at the Collaborator.
        link: what was measured between them.
    """
    step = (host.step + shop.step) / 2  # each half of a step is computed at one of them
    train, test = _rows(work)
    batches = work.rounds * math.ceil(train / work.batch_size)
    tensors = work.rounds * train * work.width * FLOAT_BYTES
    up, down = tensors + batches * FEATURES_BYTES, tensors + batches * GRADIENTS_BYTES
    seconds = batches * (step + link.rtt) + up / link.up + down / link.down
    tests = min(TESTS, work.rounds)
    test_batches = tests * math.ceil(test / work.batch_size)
    test_up = tests * test * work.width * FLOAT_BYTES + test_batches * FEATURES_BYTES
    seconds += max(test_batches * TEST_SHARE * step, test_up / link.up)
    return Phase(seconds, up + test_up, down + test_batches * DONE_BYTES)


def _rows(work: Work) -> tuple[int, int]:
    """Return the expected numbers of train and test rows."""
    train = round(work.common * TRAIN_SHARE)
    return train, work.common - train
