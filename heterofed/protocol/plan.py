"""The plan: the settings that the parties of a task agree on, which the Host announces.

Local settings (device, folders, callbacks, addresses) are not part of it; they are never sent.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heterofed.protocol.leak_limits import LeakLimits

Seconds = Annotated[float, Meta(ge=0, le=10 * 365 * 86_400)]
PartyName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"\A\w(?:[\w.\- ]*\w)?\Z")]
"""Letters, digits, '_', '-', '.' and inner spaces, which are safe in logs and folder names."""

AgreedKey = Annotated[str, Meta(max_length=64, pattern=r"\A[a-z][a-z0-9_.\-]*\Z")]
AgreedValue = Annotated[str, Meta(max_length=512, pattern=r"\A[^\x00-\x1f\x7f]*\Z")]
MAX_AGREED = 32
"""The most settings of a layer above in a plan, so that a Welcome fits into a small header."""

MAX_PARTIES = 64
MAX_ID_KEYS = 8
MAX_FINAL_ROWS = 10_000
MAX_STALENESS = 32
MAX_PEER_IDS = 2**32

KeyBits = Literal[2048, 3072, 4096]
PSIProtocol = Literal["rsa", "ecdh"]
Steps = Annotated[int, Meta(ge=0, le=MAX_STALENESS)]
Staleness = Steps | Literal["auto"]
Coding = Literal["none", "fp16", "bf16", "int8"]
"""The form of sent float tensors: unchanged, in 16 bits, or in 8 bits with a scale per row."""
LossReduction = Literal["mean", "sum"]
Fusion = Literal["separate", "masked_sum"]
"""Whether the Host gets each Collaborator's features, or only their sum by pairwise masks."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agreed settings of a task.

    Attributes:
        host: the feature key of the Host.
        collaborators: the feature keys of the Collaborators in task order, in which projections
            reach `train_a_batch`.
        max_rounds: the number of rounds (epochs over the train ids) to train; 0 means that the
            Host's `is_task_finished` decides alone.
        seed: the seed of the agreed order of each round; no party's own random streams use it.
        shuffle: whether the train ids get a new agreed order in each round.
        checkpoint_batches: the number of batches between two checkpoints within a round; 0 means
            that there are checkpoints only after rounds.
        batch_size: the number of rows in a batch, for hooks that use the agreed batches; 0 means
            that none is agreed.
        compress_features: how features are sent.
        compress_gradients: how gradients are sent.
        max_staleness: how many steps old a Collaborator's weights may be in its forward pass;
            "auto" means that the Host chooses after the first batches.
        loss_reduction: how the Host's loss combines the rows of a batch, if a party that trains
            with DP-SGD must know it; otherwise None.
        fusion: whether the Host gets each party's features or only their sum.
        credit: the number of batches of features that a Collaborator may send ahead of the Host if
            no step waits for an answer: in tests, and at a frozen party.
        calculation_timeout: the longest silence in seconds of a party that runs user code or heavy
            computations; 0 means no limit.
        schedule_timeout: the longest silence in seconds of a party that runs no user code.
        wait_for_peers: the time in seconds that all parties wait for a lost party to come back; 0
            means that the task ends at once.
        psi_protocol: the protocol of the intersection: RSA blind signatures, or an OPRF over
            ristretto255.
        psi_bits: the size of the intersection's RSA keys in bits.
        id_keys: by how many keys rows are matched, one intersection after another. Each further key
            is of rows that no key before has matched.
        max_peer_ids: the most ids that one party may have intersected.
        max_batch_bytes: the most bytes of one batch of features or gradients.
        final_rows: on how many of the test ids the best models are looked at once more, after the
            last round; 0 means that they are not.
        announced_split: whether the Host announces which common ids are for training and which for
            tests; otherwise each party splits them by the same function.
        agreed: settings of a layer above, by name, such as the prediction target and the format of
            ids. The protocol carries them and never reads them.
        limits: the limits on what may leave a party, which each party enforces itself.
    """

    host: PartyName
    collaborators: Annotated[tuple[PartyName, ...], Meta(min_length=1, max_length=MAX_PARTIES)]
    max_rounds: Annotated[int, Meta(ge=0, le=10**9)] = 0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    shuffle: bool = False
    checkpoint_batches: Annotated[int, Meta(ge=0, le=2**31)] = 0
    batch_size: Annotated[int, Meta(ge=0, le=2**31)] = 0
    compress_features: Coding = "none"
    compress_gradients: Coding = "none"
    max_staleness: Staleness = 0
    loss_reduction: LossReduction | None = None
    fusion: Fusion = "separate"
    credit: Annotated[int, Meta(ge=1, le=64)] = 16
    calculation_timeout: Seconds = 300.0
    schedule_timeout: Seconds = 30.0
    wait_for_peers: Seconds = 0.0
    psi_protocol: PSIProtocol = "rsa"
    psi_bits: KeyBits = 2048
    id_keys: Annotated[int, Meta(ge=1, le=MAX_ID_KEYS)] = 1
    max_peer_ids: Annotated[int, Meta(ge=1, le=MAX_PEER_IDS)] = 10_000_000
    max_batch_bytes: Annotated[int, Meta(ge=1, le=2**36)] = 3 << 26
    final_rows: Annotated[int, Meta(ge=0, le=MAX_FINAL_ROWS)] = 0
    announced_split: bool = False
    agreed: Annotated[tuple[tuple[AgreedKey, AgreedValue], ...], Meta(max_length=MAX_AGREED)] = ()
    limits: LeakLimits = LeakLimits()

    @property
    def psi_value_bytes(self) -> int:
        """The width of a blinded or signed value in bytes."""
        return self.psi_bits // 8 if self.psi_protocol == "rsa" else 32
