"""One frozen struct per message; types and ranges are checked when a message is decoded.

Bulk data (blinded values, tensors) is not in the struct: it follows as the message's *payload*,
raw bytes whose length the session checks against the struct before anything is allocated.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heterofed.plan import PartyName, Plan

PROTOCOL_VERSION = 1

Count = Annotated[int, Meta(ge=0, le=2**40)]
Round = Annotated[int, Meta(ge=1, le=10**9)]
Batch = Annotated[int, Meta(ge=0, le=2**40)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]
Word = Annotated[str, Meta(max_length=64, pattern=r"^[a-z_ ]*\Z")]

ITEM_BYTES = {
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "bool": 1,
}
"""Dtypes that may travel, by their torch name, and the bytes of one item."""

GRADIENT_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64"})

Dtype = Literal[
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "bool",
]


class TensorSpec(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Name, dtype and shape of one tensor; its items follow in the payload, row-major."""

    name: Annotated[str, Meta(max_length=128)]
    dtype: Dtype
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=2**40)], ...], Meta(min_length=1, max_length=16)
    ]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the payload."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


Tensors = Annotated[tuple[TensorSpec, ...], Meta(max_length=256)]


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    """Base of all messages; on the wire an array that starts with the class name."""


class Hello(Message, frozen=True):
    """C to H: who I am and what I came for. The first message of every connection."""

    versions: Annotated[tuple[Annotated[int, Meta(ge=1, le=10**6)], ...], Meta(max_length=16)]
    purpose: Literal["train", "psi"]
    task: Digest
    party: PartyName
    incarnation: Nonce
    trainable: bool


class Welcome(Message, frozen=True):
    """H to C: everybody is here, this is the plan. `secret` keys the digests of this run."""

    version: int
    run: Nonce
    secret: Digest
    plan: Plan


class Waiting(Message, frozen=True):
    """H to C: I am alive and wait for `party`; resets the receiver's silence clock."""

    party: PartyName


class PsiKey(Message, frozen=True):
    """C to H: how many ids I have; the payload is my public key and its proof."""

    count: Count


class PsiBegin(Message, frozen=True):
    """H to C: how many blinded values will come."""

    count: Count


class PsiBlinded(Message, frozen=True):
    """H to C: blinded ids, fixed width."""

    values: Count


class PsiSigned(Message, frozen=True):
    """C to H: the same values signed, in the same order."""

    values: Count


class PsiTags(Message, frozen=True):
    """C to H: tags of my own ids, 16 bytes each, shuffled."""

    values: Count


class PsiMatched(Message, frozen=True):
    """H to C: proofs of the ids that all parties share, 16 bytes each."""

    values: Count
    last: bool


class SplitPlan(Message, frozen=True):
    """H to C: keyed digests of the train and test ids that I have split."""

    train: Digest
    test: Digest
    train_count: Count
    test_count: Count


class SplitAccepted(Message, frozen=True):
    """C to H: mine are the same."""


class BeginTrain(Message, frozen=True):
    """H to C: send the features of this round's train batches."""

    round: Round


class BeginTest(Message, frozen=True):
    """H to C: send the features of the test batches, after training this round."""

    round: Round


class Features(Message, frozen=True):
    """C to H: one batch at the cut layer. `layout` says what the hook yielded."""

    round: Round
    batch: Batch
    rows: Count
    layout: Literal["tensor", "tuple", "dict"]
    tensors: Tensors


class Gradients(Message, frozen=True):
    """H to C: dL/dfeatures of one batch; tensors that the loss did not use are left out.

    May come twice: the first ahead of the Host's step, to be worked on meanwhile. What came last
    before `BatchDone` is what counts.
    """

    round: Round
    batch: Batch
    tensors: Tensors


class BatchDone(Message, frozen=True):
    """H to C: the batch is dealt with; the only credit. `stepped`: whether the Host trained."""

    round: Round
    batch: Batch
    stepped: bool


class EndOfFeatures(Message, frozen=True):
    """C to H: that were all `count` batches."""

    round: Round
    count: Count


class RoundEnd(Message, frozen=True):
    """H to C: round and its test are over; `best`: keep these weights as the best so far."""

    round: Round
    best: bool


class Finish(Message, frozen=True):
    """H to C: the task is complete after `rounds` rounds."""

    rounds: Count


class Bye(Message, frozen=True):
    """C to H: all I had to keep is kept."""


class Abort(Message, frozen=True):
    """Either way: the task has ended for `code`; numbers, never text, say the particulars."""

    code: Word
    phase: Word
    party: PartyName
    round: Count = 0
    batch: Batch | None = None
    numbers: Annotated[tuple[Count, ...], Meta(max_length=2)] = ()


AnyMessage = (
    Hello
    | Welcome
    | Waiting
    | PsiKey
    | PsiBegin
    | PsiBlinded
    | PsiSigned
    | PsiTags
    | PsiMatched
    | SplitPlan
    | SplitAccepted
    | BeginTrain
    | BeginTest
    | Features
    | Gradients
    | BatchDone
    | EndOfFeatures
    | RoundEnd
    | Finish
    | Bye
    | Abort
)

MESSAGE_TYPES: tuple[type[Message], ...] = AnyMessage.__args__
