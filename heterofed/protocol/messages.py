"""One frozen struct per message; types and ranges are checked when a message is decoded.

Bulk data (blinded values, tensors) is not in the struct: it follows as the message's *payload*,
raw bytes whose length the session checks against the struct before anything is allocated.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heterofed.protocol.plan import MAX_PARTIES, Coding, PartyName, Plan, Steps

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
        """Bytes of the tensor as it is."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def coded_bytes(self, coding: Coding) -> int:
        """Bytes of the tensor in the payload.

        Only floating tensors are coded, and only where that makes them smaller: int8 takes one byte
        an item and four a row.
        """
        if coding == "none" or self.dtype not in GRADIENT_DTYPES:
            return self.nbytes
        items = math.prod(self.shape)
        coded = items + 4 * self.shape[0] if coding == "int8" else 2 * items
        return min(coded, self.nbytes)

    def is_coded(self, coding: Coding) -> bool:
        """Whether it travels otherwise than as it is."""
        return self.coded_bytes(coding) < self.nbytes


Tensors = Annotated[tuple[TensorSpec, ...], Meta(max_length=256)]


MaskKeyBytes = Annotated[bytes, Meta(min_length=32, max_length=32)]
MaskKeys = Annotated[tuple[MaskKeyBytes, ...], Meta(max_length=MAX_PARTIES)]
SeenTags = Annotated[tuple[Digest, ...], Meta(max_length=MAX_PARTIES)]


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    """Base of all messages; on the wire an array that starts with the class name."""


class Mark(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, order=True):
    """Where a checkpoint stands: after `round` whole rounds (0: the split) and `batch` batches of
    the next one. Later marks compare greater.
    """

    round: Count
    batch: Batch = 0


class Held(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a party has kept of a run: where it holds a checkpoint."""

    run: Nonce
    marks: Annotated[tuple[Mark, ...], Meta(max_length=8)]


class Hello(Message, frozen=True):
    """C to H: who I am and what I came for. The first message of every connection.

    `terms` are my task file's, in their canonical form; empty where there is no task file.
    `incarnation` names my process. `mask_key` is a fresh X25519 key, for masks shared with the
    other Collaborators.
    """

    versions: Annotated[tuple[Annotated[int, Meta(ge=1, le=10**6)], ...], Meta(max_length=16)]
    purpose: Literal["train", "psi", "predict", "rehearse", "check"]
    task: Digest
    party: PartyName
    incarnation: Nonce
    trainable: bool
    terms: Annotated[bytes, Meta(max_length=1 << 16)] = b""
    held: Held | None = None
    mask_key: MaskKeyBytes | None = None


class Terms(Message, frozen=True):
    """H to C: the terms of my task file: the answer to a check, or to other terms than mine."""

    terms: Annotated[bytes, Meta(max_length=1 << 16)]


class Welcome(Message, frozen=True):
    """H to C: everybody is here, this is the plan. `secret` keys the digests of this run.

    `mask_keys` are the Collaborators', in the plan's order, where their features are summed.
    """

    version: int
    run: Nonce
    secret: Digest
    plan: Plan
    mask_keys: MaskKeys = ()


class WelcomeBack(Message, frozen=True):
    """H to C: everybody is here; this run goes on from the checkpoint at `mark`.

    Without `mask_keys` only `Finish` may follow: the run is complete, and some parties have left.
    """

    version: int
    run: Nonce
    secret: Digest
    plan: Plan
    mark: Mark
    mask_keys: MaskKeys = ()


class Waiting(Message, frozen=True):
    """H to C: I am alive and wait for `party`; resets the receiver's silence clock."""

    party: PartyName


class PsiKey(Message, frozen=True):
    """C to H: how many ids I have; the payload is my public key and its proof.

    With `kept` it is the key of an earlier meeting, whose results the Host may have.
    """

    count: Count
    kept: bool = False


class PsiRenew(Message, frozen=True):
    """H to C: I have nothing that belongs to that key; make another one."""


class PsiBegin(Message, frozen=True):
    """H to C: how many ids I have; blinded values come of all but `done` of them.

    Those were signed before this run was interrupted, and I have kept what came of them.
    """

    count: Count
    done: Count = 0


class PsiBlinded(Message, frozen=True):
    """H to C: blinded ids, fixed width."""

    values: Count


class PsiSigned(Message, frozen=True):
    """C to H: the same values signed, in the same order."""

    values: Count


class PsiUnblinded(Message, frozen=True):
    """H to C: I hold what came of every signed value, so that nothing will be asked again."""


class PsiTagged(Message, frozen=True):
    """C to H: so many of my own ids have their tags; while these grow, I am not silent."""

    done: Count


class PsiTags(Message, frozen=True):
    """C to H: tags of my own ids, 16 bytes each, shuffled."""

    values: Count


class PsiMatched(Message, frozen=True):
    """H to C: proofs of the ids that all parties share, 16 bytes each."""

    values: Count
    last: bool


class SplitParts(Message, frozen=True):
    """H to C: in which part each of the next `ids` common ids is, in their sorted order; only where
    the plan says that the Host announces the split.

    The payload has two bits for each, the lowest bits of a byte first: 1 for a train id, 2 for a
    test id, 3 for both, 0 for neither.
    """

    ids: Annotated[int, Meta(ge=1, le=2**40)]


class SplitPlan(Message, frozen=True):
    """H to C: keyed digests of the train and test ids that I have split."""

    train: Digest
    test: Digest
    train_count: Count
    test_count: Count


class SplitAccepted(Message, frozen=True):
    """C to H: mine are the same, and I hold the checkpoint to begin from."""


class PredictPlan(Message, frozen=True):
    """H to C: the rows that all of us predict, and with which models; instead of a split.

    `ids` is the keyed digest of your `count` matched ids, sorted; `run` and `rounds` say in which
    run and for how long the models were trained.
    """

    run: Nonce
    rounds: Round
    models: Literal["last", "best"]
    count: Count
    ids: Digest


class PredictAccepted(Message, frozen=True):
    """C to H: mine are of the same run, and so many rows are within my limits."""


class BeginTrain(Message, frozen=True):
    """H to C: send the features of this round's train batches, `staleness` steps ahead.

    Where the plan has checkpoints within rounds it comes again after each: `first` is the batch
    that comes next.
    """

    round: Round
    staleness: Steps = 0
    first: Batch = 0


class BeginTest(Message, frozen=True):
    """H to C: send the features of the test batches, after training this round; in a prediction
    those of the rows to predict.
    """

    round: Round


class Features(Message, frozen=True):
    """C to H: one batch at the cut layer. `layout` says what the hook yielded; `ids` is the keyed
    digest of the rows' ids, where the hook gave them; `busy` for how many microseconds this party
    has worked since its last batch, where it says so.
    """

    round: Round
    batch: Batch
    rows: Count
    layout: Literal["tensor", "tuple", "dict"]
    tensors: Tensors
    ids: Digest | None = None
    busy: Count = 0


class Gradients(Message, frozen=True):
    """H to C: dL/dfeatures of one batch; tensors that the loss did not use are left out.

    May come twice: the first ahead of the Host's step, to be worked on meanwhile. What came last is
    what counts. `done`: the Host has stepped, and this says what `BatchDone` would say.
    """

    round: Round
    batch: Batch
    tensors: Tensors
    done: bool = False


class BatchDone(Message, frozen=True):
    """H to C: the batch is dealt with, so another may come. `stepped`: whether the Host trained;
    `staleness`: what holds from the next batch on, where the plan leaves that to the Host.
    """

    round: Round
    batch: Batch
    stepped: bool
    staleness: Steps | None = None


class GradientsSeen(Message, frozen=True):
    """C to H: one batch's gradients have come, where features are summed: for each other
    Collaborator a tag of them, keyed by what we two share, in the plan's order.
    """

    round: Round
    batch: Batch
    tags: SeenTags


class SeenByOthers(Message, frozen=True):
    """H to C: the tags that the other Collaborators made for you, in the plan's order. Where they
    are those of the gradients that you got, step.
    """

    round: Round
    batch: Batch
    tags: SeenTags


class EndOfFeatures(Message, frozen=True):
    """C to H: that were all `count` batches."""

    round: Round
    count: Count


class RoundEnd(Message, frozen=True):
    """H to C: round and its test are over, write your checkpoint.

    `best`: keep these weights as the best so far. `last`: no round comes after this one.
    """

    round: Round
    best: bool
    last: bool


class Checkpoint(Message, frozen=True):
    """H to C: `batch` batches of this round are trained, write your checkpoint."""

    round: Round
    batch: Annotated[int, Meta(ge=1, le=2**40)]


class CheckpointHeld(Message, frozen=True):
    """C to H: the checkpoint of `RoundEnd` (batch 0) or `Checkpoint` is on disk. Nobody goes on
    before all have said so.
    """

    round: Round
    batch: Batch = 0


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
    | Terms
    | Welcome
    | WelcomeBack
    | Waiting
    | PsiKey
    | PsiRenew
    | PsiBegin
    | PsiBlinded
    | PsiSigned
    | PsiUnblinded
    | PsiTagged
    | PsiTags
    | PsiMatched
    | SplitParts
    | SplitPlan
    | SplitAccepted
    | PredictPlan
    | PredictAccepted
    | BeginTrain
    | BeginTest
    | Features
    | Gradients
    | BatchDone
    | GradientsSeen
    | SeenByOthers
    | EndOfFeatures
    | RoundEnd
    | Checkpoint
    | CheckpointHeld
    | Finish
    | Bye
    | Abort
)

MESSAGE_TYPES: tuple[type[Message], ...] = AnyMessage.__args__
