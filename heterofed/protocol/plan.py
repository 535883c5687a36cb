"""What the parties of one task agree on, frozen: the Host owns it and announces it in its Welcome.

Local settings (device, folders, callbacks, addresses) are not here: they never travel.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0, le=10 * 365 * 86_400)]
PartyName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"\A\w(?:[\w.\- ]*\w)?\Z")]
"""Letters, digits, '_', '-', '.' and inner spaces: fit for logs and folder names."""

AgreedKey = Annotated[str, Meta(max_length=64, pattern=r"\A[a-z][a-z0-9_.\-]*\Z")]
AgreedValue = Annotated[str, Meta(max_length=512, pattern=r"\A[^\x00-\x1f\x7f]*\Z")]
MAX_AGREED = 32
"""Settings of a layer above that a plan may carry: a Welcome has to fit into one small header."""

MAX_PARTIES = 64
MAX_STALENESS = 32
MAX_PEER_IDS = 2**32

KeyBits = Literal[2048, 3072, 4096]
PSIProtocol = Literal["rsa", "ecdh"]
Steps = Annotated[int, Meta(ge=0, le=MAX_STALENESS)]
Staleness = Steps | Literal["auto"]
Coding = Literal["none", "fp16", "bf16", "int8"]
"""How floating tensors travel: as they are, rounded to 16 bits, or to 8 with a scale per row."""
LossReduction = Literal["mean", "sum"]
Fusion = Literal["separate", "masked_sum"]
"""Whether the Host gets each Collaborator's features, or only the sum of all, masked in pairs."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agreed settings of a task.

    Attributes:
        host: feature key of the Host.
        collaborators: feature keys of the Collaborators, in task order (the order in which
            projections reach `train_a_batch`).
        max_rounds: rounds (epochs over the train ids) that the Host means to train; 0 where its
            `is_task_finished` decides alone.
        seed: what the agreed order of each round is drawn from; no party's own streams.
        shuffle: whether the train ids come in a new agreed order each round.
        checkpoint_batches: batches between two checkpoints within a round; 0: only after rounds.
        batch_size: rows of a batch, for hooks that ask for the agreed batches; 0: none agreed.
        compress_features, compress_gradients: how tensors travel, each direction on its own.
        max_staleness: steps by which the weights of a Collaborator's forward are behind; "auto":
            the Host chooses after the first batches.
        loss_reduction: how the Host's loss is taken over the rows of a batch, where a party that
            trains with DP-SGD must know it; None where none does.
        fusion: whether the Host gets each party's features or only their sum.
        credit: batches of features that a Collaborator may send ahead of the Host where no step
            waits for an answer: in tests, and from a frozen party.
        calculation_timeout: longest silence (s) of a party that runs user code or heavy compute;
            0: no limit.
        schedule_timeout: longest silence (s) of a party that runs no user code.
        wait_for_peers: seconds that everybody waits for a party that was lost to come back; 0: the
            task ends.
        psi_protocol: how ids are intersected: RSA blind signatures, or an OPRF over ristretto255.
        psi_bits: size of the RSA keys of the intersection.
        max_peer_ids: most ids that one party may have intersected.
        max_batch_bytes: most bytes of one batch of features or gradients.
        announced_split: whether the Host announces which common ids are for training and which for
            tests; else each party splits them by the same function.
        agreed: settings of a layer above (what the task predicts, how ids are written), by name.
            The protocol carries them and never reads them.
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
    max_peer_ids: Annotated[int, Meta(ge=1, le=MAX_PEER_IDS)] = 10_000_000
    max_batch_bytes: Annotated[int, Meta(ge=1, le=2**36)] = 3 << 26
    announced_split: bool = False
    agreed: Annotated[tuple[tuple[AgreedKey, AgreedValue], ...], Meta(max_length=MAX_AGREED)] = ()

    @property
    def psi_value_bytes(self) -> int:
        """Width of a blinded or signed value."""
        return self.psi_bits // 8 if self.psi_protocol == "rsa" else 32
