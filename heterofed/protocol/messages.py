"""The messages of the protocol: one frozen struct for each, which is checked when it is decoded.

Bulk data (blinded values, tensors) are not in the struct. They follow as the message's *payload*,
raw bytes whose length the session checks against the struct before memory is allocated.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heterofed.protocol.plan import (
    MAX_PARTIES,
    MAX_PEER_IDS,
    Coding,
    PartyName,
    Plan,
    PSIProtocol,
    Steps,
)

PROTOCOL_VERSION = 1

MAX_SERVED_ROWS = 1 << 16
"""The most rows that one request of a standing link may ask for."""

MAX_RETRY_SECONDS = 86_400
"""The longest time in seconds after which a refused request may be answered: a day."""

MAX_FINDINGS = 256
"""The largest number of values in `Findings`, so that they fit into a small header."""

MAX_WEIGHTS = 1024
"""The most tensors of a model in a horizontal task; their layout fits into one header."""

MAX_SCORES = 32
"""The most numbers that a party tells of its training or its test; they fit a small header."""

MAX_STATEMENT_BYTES = 2048
"""The longest statement of a run that a party signs; it fits into a small header."""

MAX_SITE_BATCHES = 1 << 18
"""The most batches of a round or test in a task with sites; their rows are told in one frame."""

MAX_PINGS = 40
"""The largest number of pings in a probe of a connection."""

MAX_PROBE_BYTES = 1 << 23
"""The most bytes of a ping or of its answer."""

MAX_PROBE_WEIGHTS = 1 << 22
"""The most weights of the models whose training step a probe measures, so that it takes seconds."""

MAX_PROBE_NUMBERS = 1 << 26
"""The most numbers of one batch of such a step."""

Count = Annotated[int, Meta(ge=0, le=2**40)]
Bytes = Annotated[int, Meta(ge=0, le=2**60)]
Clock = Annotated[float, Meta(ge=0, le=1e11)]
Duration = Annotated[float, Meta(ge=0, le=1e6)]
Rate = Annotated[float, Meta(ge=1, le=1e15)]
Version = Annotated[str, Meta(max_length=64, pattern=r"^[\w.+-]*\Z")]
Round = Annotated[int, Meta(ge=1, le=10**9)]
Batch = Annotated[int, Meta(ge=0, le=2**40)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]
Word = Annotated[str, Meta(max_length=64, pattern=r"^[a-z_ ]*\Z")]
SetName = Annotated[str, Meta(max_length=16, pattern=r"\A[0-9a-f]{16}\Z")]
"""The name of a stored set, which depends on its key."""

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
"""The dtypes that may be sent, by their torch name, with the bytes of one item."""

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
    """The name, dtype and shape of a tensor; its items are in the payload in row-major order."""

    name: Annotated[str, Meta(max_length=128)]
    dtype: Dtype
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=2**40)], ...], Meta(min_length=1, max_length=16)
    ]

    @property
    def nbytes(self) -> int:
        """The bytes of the tensor without coding."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def coded_bytes(self, coding: Coding) -> int:
        """Return the bytes of the tensor in the payload.

        Only floating tensors are coded, and only if that makes them smaller: int8 takes one byte
        per item and four bytes per row.
        """
        if coding == "none" or self.dtype not in GRADIENT_DTYPES:
            return self.nbytes
        items = math.prod(self.shape)
        coded = items + 4 * self.shape[0] if coding == "int8" else 2 * items
        return min(coded, self.nbytes)

    def is_coded(self, coding: Coding) -> bool:
        """Return whether the tensor is coded."""
        return coding != "none" and self.coded_bytes(coding) < self.nbytes


Tensors = Annotated[tuple[TensorSpec, ...], Meta(max_length=256)]


class WeightSpec(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The name, dtype and shape of a tensor of a model, and whether training changes it by
    gradients.
    """

    name: Annotated[str, Meta(max_length=128, pattern=r"\A[\x21-\x7e]+\Z")]
    dtype: Dtype
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**40)], ...], Meta(max_length=8)]
    learns: bool

    @property
    def items(self) -> int:
        """The number of items of the tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of the tensor."""
        return self.items * ITEM_BYTES[self.dtype]


WeightSpecs = Annotated[tuple[WeightSpec, ...], Meta(min_length=1, max_length=MAX_WEIGHTS)]
ScoreName = Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z_][A-Za-z0-9_.\-]*\Z")]
ScoreValues = Annotated[tuple[tuple[ScoreName, float], ...], Meta(max_length=MAX_SCORES)]


MaskKeyBytes = Annotated[bytes, Meta(min_length=32, max_length=32)]
MaskKeys = Annotated[tuple[MaskKeyBytes, ...], Meta(max_length=MAX_PARTIES)]
SeenTags = Annotated[tuple[Digest, ...], Meta(max_length=MAX_PARTIES)]


SealedKey = Annotated[bytes, Meta(min_length=48, max_length=48)]
SealedKeys = Annotated[tuple[SealedKey, ...], Meta(max_length=MAX_PARTIES)]


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    """Base of all messages. On the wire a message is an array that starts with its class name."""


class Mark(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, order=True):
    """The position of a checkpoint: after `round` whole rounds (0 means after the split) and
    `batch` batches of the next one. Later marks compare greater.
    """

    round: Count
    batch: Batch = 0


class Held(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The checkpoints of a run that a party holds, by their positions."""

    run: Nonce
    marks: Annotated[tuple[Mark, ...], Meta(max_length=8)]


class Work(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The work for which a probe measures two machines.

    Attributes:
        ids: the number of the Host's ids.
        common: the expected number of common ids.
        rounds: the number of rounds; 0 means that nothing is trained.
        batch_size: the number of rows in a batch.
        width: the number of features that the Collaborator sends for each row.
        columns: the number of columns from which the Collaborator computes them.
        protocol: the protocol of the intersection.
    """

    ids: Annotated[int, Meta(ge=1, le=MAX_PEER_IDS)]
    common: Annotated[int, Meta(ge=1, le=MAX_PEER_IDS)]
    rounds: Annotated[int, Meta(ge=0, le=10**6)]
    batch_size: Annotated[int, Meta(ge=1, le=1 << 20)]
    width: Annotated[int, Meta(ge=1, le=1 << 16)]
    columns: Annotated[int, Meta(ge=1, le=1 << 16)]
    protocol: PSIProtocol = "ecdh"

    @property
    def is_measurable(self) -> bool:
        """Whether its training step, if there is one, takes little memory and time anywhere: of
        dense layers from columns to features, on one batch of both.
        """
        wide = self.columns + self.width
        small = self.width * wide <= MAX_PROBE_WEIGHTS
        return not self.rounds or (small and self.batch_size * wide <= MAX_PROBE_NUMBERS)


class Facts(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The facts of a machine that say whether a task can run on it, and how fast.

    Attributes:
        version: the version of heterofed.
        python: the version of Python.
        torch: the version of torch.
        cores: the number of cores that the process may use.
        memory: the free memory in bytes.
        disk: the free bytes where results are written.
        files: the most files that the process may open.
        ids: the number of this party's ids.
        ask: the seconds of blinding and unblinding one id of an intersection.
        sign: the seconds of signing one id of the other party.
        tag: the seconds of computing the tag of one own id.
        step: the seconds of one training step, with both halves on this machine.
        start: the seconds of making and checking the key of an intersection.
        busy: how many cores the intersection has kept busy, on average.
        machine: 16 bytes that only parties of this task on this very machine have too; empty if
            the system does not say which machine it is.
    """

    version: Version
    python: Version
    torch: Version
    cores: Annotated[int, Meta(ge=1, le=1 << 16)]
    memory: Bytes
    disk: Bytes
    files: Count
    ids: Annotated[int, Meta(ge=1, le=MAX_PEER_IDS)]
    ask: Duration
    sign: Duration
    tag: Duration
    step: Duration
    start: Duration = 0.0
    busy: Annotated[float, Meta(ge=0, le=1 << 16)] = 1.0
    machine: Annotated[bytes, Meta(max_length=16)] = b""


class LinkFacts(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The facts of a connection, as the Collaborator has measured them.

    Attributes:
        rtt: the time of the fastest round trip in seconds.
        up: the bytes per second to the Host.
        down: the bytes per second from the Host.
        ahead: the seconds by which the Host's clock is ahead of the Collaborator's.
    """

    rtt: Duration
    up: Rate
    down: Rate
    ahead: Annotated[float, Meta(ge=-1e11, le=1e11)]


class Hello(Message, frozen=True):
    """C to H: I introduce myself and my purpose. This is the first message of every connection.

    `terms` are the terms of my task file in canonical form, or empty if I have no task file.
    `incarnation` identifies my process. `mask_key` is a fresh X25519 key, for masks that I share
    with the other Collaborators.
    """

    versions: Annotated[tuple[Annotated[int, Meta(ge=1, le=10**6)], ...], Meta(max_length=16)]
    purpose: Literal[
        "train",
        "psi",
        "overlap",
        "stored",
        "predict",
        "serve",
        "rehearse",
        "average",
        "check",
        "probe",
    ]
    task: Digest
    party: PartyName
    incarnation: Nonce
    trainable: bool
    terms: Annotated[bytes, Meta(max_length=1 << 16)] = b""
    held: Held | None = None
    mask_key: MaskKeyBytes | None = None


class Terms(Message, frozen=True):
    """H to C: these are the terms of my task file. This answers a check, or terms that differ."""

    terms: Annotated[bytes, Meta(max_length=1 << 16)]


class Welcome(Message, frozen=True):
    """H to C: all parties are connected, and this is the plan. `secret` keys this run's digests.

    `mask_keys` are the keys of the Collaborators in the plan's order, if something of theirs is
    summed.
    """

    version: int
    run: Nonce
    secret: Digest
    plan: Plan
    mask_keys: MaskKeys = ()


class WelcomeBack(Message, frozen=True):
    """H to C: all parties are connected, and the run resumes from the checkpoint at `mark`.

    Without `mask_keys` only `Finish` may follow: the run is complete, and some parties have left.
    """

    version: int
    run: Nonce
    secret: Digest
    plan: Plan
    mark: Mark
    mask_keys: MaskKeys = ()


class ProbeBegin(Message, frozen=True):
    """H to C: this is the work that I plan. Let us both measure how fast our machines do it."""

    work: Work


class ProbeFacts(Message, frozen=True):
    """H to C: these are the facts of my machine. You may measure the connection now."""

    facts: Facts


class ProbePing(Message, frozen=True):
    """C to H: answer at once, with `reply` bytes. The payload only takes time to be sent."""

    number: Annotated[int, Meta(ge=0, le=MAX_PINGS)]
    reply: Annotated[int, Meta(ge=0, le=MAX_PROBE_BYTES)] = 0


class ProbePong(Message, frozen=True):
    """H to C: this is the answer to your ping, and my clock in seconds since 1970 (UTC)."""

    number: Annotated[int, Meta(ge=0, le=MAX_PINGS)]
    clock: Clock


class ProbeResult(Message, frozen=True):
    """C to H: these are the facts of my machine and what I measured of the connection. I leave."""

    facts: Facts
    link: LinkFacts


class Waiting(Message, frozen=True):
    """H to C: I am alive and wait for `party`. The message restarts the receiver's timeout."""

    party: PartyName


class PsiKey(Message, frozen=True):
    """C to H: I have `count` ids; the payload is my public key and its proof.

    `kept` says that it is the key of an earlier connection, whose results you may have.
    """

    count: Count
    kept: bool = False


class PsiRenew(Message, frozen=True):
    """H to C: I have no results that belong to that key; make another key."""


class PsiBegin(Message, frozen=True):
    """H to C: I have `count` ids, and will send blinded values of all but `done` of them.

    Those `done` were signed before this run was interrupted, and I have kept their results. With
    `again`, I have had the key-value stores of all Collaborators under these keys; send yours again
    unchanged.
    """

    count: Count
    done: Count = 0
    again: bool = False


class PsiBlinded(Message, frozen=True):
    """H to C: these are blinded ids, of a fixed width each."""

    values: Count


class PsiSigned(Message, frozen=True):
    """C to H: these are the same values, signed, in the same order."""

    values: Count


class PsiUnblinded(Message, frozen=True):
    """H to C: I hold the results of all signed values, and will request none again."""


class PsiTagged(Message, frozen=True):
    """C to H: I have computed the tags of `done` of my own ids, so I am not silent."""

    done: Count


class PsiTags(Message, frozen=True):
    """C to H: these are tags of my own ids, 16 bytes each, in an order that says nothing.

    If the plan has `psi_parties="joint"`, they are the parts of a key-value store of shares.
    """

    values: Count


class PsiMatched(Message, frozen=True):
    """H to C: these are proofs of the ids that all parties have, 16 bytes each."""

    values: Count
    last: bool


class CountBegin(Message, frozen=True):
    """H to C: I have `count` ids. Let us only count our common ids, and reveal none of them."""

    count: Count


class CountReady(Message, frozen=True):
    """C to H: I have `count` ids, and I am ready for the blinded values of yours."""

    count: Count


class CountBlinded(Message, frozen=True):
    """H to C: these are blinded values of my ids, 32 bytes each.

    They are in ascending order over all messages of this kind, so that their order says nothing.
    """

    values: Count


class CountRaised(Message, frozen=True):
    """C to H: these are your values, raised to my secret exponent.

    They are in ascending order over all messages of this kind, so that none can be traced to an id.
    """

    values: Count


class CountOwn(Message, frozen=True):
    """C to H: these are blinded values of my own ids, 32 bytes each.

    They are in ascending order over all messages of this kind, so that their order says nothing.
    """

    values: Count


class CountResult(Message, frozen=True):
    """H to C: we have `common` ids in common."""

    common: Count


class StoredOffer(Message, frozen=True):
    """C to H: you may ask my stored set `name` of `count` ids; its filter has `size` bytes."""

    name: SetName
    count: Count
    size: Bytes


class StoredBegin(Message, frozen=True):
    """H to C: I have `count` ids to ask for. With `fetch`, send me the filter first."""

    count: Count
    fetch: bool


class StoredFilter(Message, frozen=True):
    """C to H: these are the next bytes of the filter."""


class StoredBlinded(Message, frozen=True):
    """H to C: these are blinded ids, 32 bytes each."""

    values: Count


class StoredEvaluated(Message, frozen=True):
    """C to H: these are the same values, evaluated, in the same order, and the proof of my key."""

    values: Count


class StoredClaims(Message, frozen=True):
    """H to C: these are the proofs of ids that the filter has, 16 bytes each, in ascending order.

    With `last`, these are all.
    """

    values: Count
    last: bool


class StoredReplies(Message, frozen=True):
    """C to H: these are the replies to the proofs, 16 bytes each; zeros where I have no such id."""

    values: Count


class SiteRows(Message, frozen=True):
    """H to C: these are the numbers of your rows in the `batches` batches of this round, or of its
    test, because you are a site of a role.

    The payload has four bytes for each batch, little-endian.
    """

    round: Round
    batches: Annotated[int, Meta(ge=1, le=MAX_SITE_BATCHES)]
    testing: bool


class SiteShare(Message, frozen=True):
    """C to H: this is my part of the sum over the sites of my role, masked.

    Batch 0 of round 0 sums up the initial weights, and any other one the gradients of the feature
    model, or its weights times the rows since the last sum. `check` is a keyed digest of my model
    and optimizer, which must be the same at all sites. `keys` are sealed copies of the key of the
    sums for the other sites, which the first site sends once per connection.
    """

    round: Count
    batch: Batch
    check: Digest | None = None
    keys: SealedKeys = ()


class SiteSum(Message, frozen=True):
    """H to C: this is the sum of the parts of all sites of your role, which I cannot read.

    `key` is the sealed copy for you, if the first site sent one with its part.
    """

    round: Count
    batch: Batch
    key: SealedKey | None = None


class SplitParts(Message, frozen=True):
    """H to C: these are the parts of the next `ids` common ids in sorted order, if the plan says
    that the Host announces the split.

    The payload has two bits for each id, the lowest bits of a byte first: 1 for a train id, 2 for a
    test id, 3 for both, 0 for neither.
    """

    ids: Annotated[int, Meta(ge=1, le=2**40)]


class SplitPlan(Message, frozen=True):
    """H to C: these are keyed digests of my train and test ids."""

    train: Digest
    test: Digest
    train_count: Count
    test_count: Count


class SplitAccepted(Message, frozen=True):
    """C to H: my digests are the same, and I hold the checkpoint from which training begins."""


class PredictPlan(Message, frozen=True):
    """H to C: these are the rows and models of a prediction; it takes the place of a split.

    `ids` is the keyed digest of your `count` matched ids in sorted order. `run` and `rounds` say in
    which run and for how many rounds the models were trained.
    """

    run: Nonce
    rounds: Round
    models: Literal["last", "best"]
    count: Count
    ids: Digest


class PredictAccepted(Message, frozen=True):
    """C to H: my models are of the same run, and the number of rows is within my quotas."""


class ServePlan(Message, frozen=True):
    """H to C: these are the rows and models of a standing link, on which requests follow.

    The fields are those of `PredictPlan`; rows are named by their numbers in the sorted ids.
    `version` is the digest of my half of the model. While rows are served, a further one asks for
    another version of the same rows; requests for it follow once it is accepted.
    """

    run: Nonce
    rounds: Round
    models: Literal["last", "best"]
    count: Count
    ids: Digest
    version: Digest


class ServeAccepted(Message, frozen=True):
    """C to H: my models are of the same run; `version` is the digest of my half of the model.

    While rows are served, it answers a further `ServePlan`. With `refused` that version is not
    served, for this reason; the link goes on with those before it.
    """

    version: Digest
    refused: Literal["", "other_version", "failed"] = ""


class ServeRequest(Message, frozen=True):
    """H to C: send the features of these rows, computed by this version of both halves.

    The payload has the number of each row, from 0, in four bytes, little-endian.
    """

    number: Count
    rows: Annotated[int, Meta(ge=1, le=MAX_SERVED_ROWS)]
    version: Digest


class ServeAnswer(Message, frozen=True):
    """C to H: these are the features of the rows of request `number`, in their order.

    With `refused` there are none, for this reason; the link stays open. `retry_after` is the time
    in seconds after which another request may be answered, if it is known.
    """

    number: Count
    rows: Annotated[int, Meta(ge=0, le=MAX_SERVED_ROWS)]
    version: Digest
    layout: Literal["tensor", "tuple", "dict"] = "tensor"
    tensors: Tensors = ()
    refused: Literal["", "limit", "other_version", "late", "failed"] = ""
    retry_after: Annotated[int, Meta(ge=0, le=MAX_RETRY_SECONDS)] = 0


class BeginTrain(Message, frozen=True):
    """H to C: send the features of this round's train batches, `staleness` steps ahead.

    If the plan has checkpoints within rounds, the message is repeated after each of them; `first`
    is the next batch.
    """

    round: Round
    staleness: Steps = 0
    first: Batch = 0


class BeginTest(Message, frozen=True):
    """H to C: send the features of the test batches or, in a prediction, of the rows to predict."""

    round: Round


class Features(Message, frozen=True):
    """C to H: these are the features of one batch. `layout` is the form in which the hook yielded
    them.

    `ids` is the keyed digest of the rows' ids, if the hook gave them. `busy` is the time in
    microseconds that this party has computed since its last batch, if it reports it.
    """

    round: Round
    batch: Batch
    rows: Count
    layout: Literal["tensor", "tuple", "dict"]
    tensors: Tensors
    ids: Digest | None = None
    busy: Count = 0


class Gradients(Message, frozen=True):
    """H to C: these are dL/dfeatures of one batch, without tensors that the loss did not use.

    The message may come twice for a batch; the first one is sent before the Host's step, and the
    last one counts. With `done` the Host has stepped, and the message replaces `BatchDone`.
    """

    round: Round
    batch: Batch
    tensors: Tensors
    done: bool = False


class BatchDone(Message, frozen=True):
    """H to C: I have processed the batch, so another one may come. `stepped` says whether I
    trained.

    `staleness` is the staleness from the next batch on, if the plan leaves it to the Host.
    """

    round: Round
    batch: Batch
    stepped: bool
    staleness: Steps | None = None


class GradientsSeen(Message, frozen=True):
    """C to H: I have the gradients of a batch of summed features, and these are tags of them.

    There is one tag for each other Collaborator in the plan's order, keyed by the secret that I
    share with it.
    """

    round: Round
    batch: Batch
    tags: SeenTags


class SeenByOthers(Message, frozen=True):
    """H to C: these are the tags that the other Collaborators made for you, in the plan's order.

    If they match the gradients that you got, you may step.
    """

    round: Round
    batch: Batch
    tags: SeenTags


class EndOfFeatures(Message, frozen=True):
    """C to H: I have sent all `count` batches."""

    round: Round
    count: Count


class Findings(Message, frozen=True):
    """H to C: these numbers are what the final evaluation of the best models has found for you.

    The first batch of features that you sent in it was unchanged, and each later one had one change
    that you wanted to measure. Value i belongs to batch i + 1, and says for example how much worse
    the model was on it; NaN means that nothing can be said.
    """

    values: Annotated[tuple[float, ...], Meta(max_length=MAX_FINDINGS)]


class DescribeModel(Message, frozen=True):
    """H to C: which tensors does your model have? With `weights`, send them, too.

    It is the first message of a horizontal task, in which no ids are compared.
    """

    weights: bool


class ModelLayout(Message, frozen=True):
    """C to H: these are the tensors of my model in order; the payload holds them if you asked."""

    tensors: WeightSpecs


class InitialWeights(Message, frozen=True):
    """H to C: all models have the same tensors, and these are the weights to begin with."""


class WeightsHeld(Message, frozen=True):
    """C to H: I hold the checkpoint with these weights, from which training begins."""


class BeginUpdate(Message, frozen=True):
    """H to C: train one round on your rows, from the weights that all parties have."""

    round: Round


class Update(Message, frozen=True):
    """C to H: these are my weights after training on `rows` rows, or my gradients.

    If the plan says so, they are masked. `scores` are numbers about the training.
    """

    round: Round
    rows: Annotated[int, Meta(ge=1, le=2**40)]
    scores: ScoreValues = ()


class Average(Message, frozen=True):
    """H to C: these are the new weights of all parties, after this round's updates."""

    round: Round


class BeginScores(Message, frozen=True):
    """H to C: test the new weights on your rows."""

    round: Round


class Scores(Message, frozen=True):
    """C to H: these are the results of my test on `rows` rows; 0 if I do not say how many."""

    round: Round
    rows: Count
    scores: ScoreValues = ()


class RoundEnd(Message, frozen=True):
    """H to C: the round and its test are over, so write your checkpoint.

    With `best`, keep these weights as the best so far. With `last`, this was the last round.
    """

    round: Round
    best: bool
    last: bool


class Checkpoint(Message, frozen=True):
    """H to C: `batch` batches of this round are trained, so write your checkpoint."""

    round: Round
    batch: Annotated[int, Meta(ge=1, le=2**40)]


class CheckpointHeld(Message, frozen=True):
    """C to H: the checkpoint of `RoundEnd` (batch 0) or `Checkpoint` is on disk.

    The Host continues only after all Collaborators have sent this message.
    """

    round: Round
    batch: Batch = 0


class Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A party's statement of the run for its receipt, with its Ed25519 signature."""

    text: Annotated[bytes, Meta(max_length=MAX_STATEMENT_BYTES)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Finish(Message, frozen=True):
    """H to C: the task is complete after `rounds` rounds; `signed` is the Host's statement of it,
    if the parties sign receipts.
    """

    rounds: Count
    signed: Signed | None = None


class Bye(Message, frozen=True):
    """C to H: I have saved everything that I keep, and I close the connection; `signed` answers the
    Host's statement.
    """

    signed: Signed | None = None


class Abort(Message, frozen=True):
    """Either way: the task has ended for the reason `code`; details are numbers and never text."""

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
    | ProbeBegin
    | ProbeFacts
    | ProbePing
    | ProbePong
    | ProbeResult
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
    | CountBegin
    | CountReady
    | CountBlinded
    | CountRaised
    | CountOwn
    | CountResult
    | StoredOffer
    | StoredBegin
    | StoredFilter
    | StoredBlinded
    | StoredEvaluated
    | StoredClaims
    | StoredReplies
    | SiteRows
    | SiteShare
    | SiteSum
    | SplitParts
    | SplitPlan
    | SplitAccepted
    | PredictPlan
    | PredictAccepted
    | ServePlan
    | ServeAccepted
    | ServeRequest
    | ServeAnswer
    | BeginTrain
    | BeginTest
    | Features
    | Gradients
    | BatchDone
    | GradientsSeen
    | SeenByOthers
    | EndOfFeatures
    | Findings
    | DescribeModel
    | ModelLayout
    | InitialWeights
    | WeightsHeld
    | BeginUpdate
    | Update
    | Average
    | BeginScores
    | Scores
    | RoundEnd
    | Checkpoint
    | CheckpointHeld
    | Finish
    | Bye
    | Abort
)

MESSAGE_TYPES: tuple[type[Message], ...] = AnyMessage.__args__
