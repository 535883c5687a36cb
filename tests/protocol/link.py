"""Two sessions joined by a link that loses nothing: each line goes through both ends at once."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from heterofed.errors import LocalProtocolError, RemoteProtocolError
from heterofed.protocol import counts
from heterofed.protocol.messages import (
    Abort,
    Average,
    BatchDone,
    BeginScores,
    BeginTest,
    BeginTrain,
    BeginUpdate,
    Bye,
    Checkpoint,
    CheckpointHeld,
    CountBegin,
    CountBlinded,
    CountOwn,
    CountRaised,
    CountReady,
    CountResult,
    DescribeModel,
    EndOfFeatures,
    Facts,
    Features,
    Finish,
    Gradients,
    GradientsSeen,
    Held,
    Hello,
    InitialWeights,
    LinkFacts,
    Mark,
    Message,
    ModelLayout,
    PredictAccepted,
    PredictPlan,
    ProbeBegin,
    ProbeFacts,
    ProbePing,
    ProbePong,
    ProbeResult,
    PsiBegin,
    PsiBlinded,
    PsiKey,
    PsiMatched,
    PsiRenew,
    PsiSigned,
    PsiTagged,
    PsiTags,
    PsiUnblinded,
    RoundEnd,
    Scores,
    SeenByOthers,
    ServeAccepted,
    ServeAnswer,
    ServePlan,
    ServeRequest,
    SiteRows,
    SiteShare,
    SiteSum,
    SplitAccepted,
    SplitParts,
    SplitPlan,
    TensorSpec,
    Update,
    Waiting,
    WeightsHeld,
    WeightSpec,
    Welcome,
    WelcomeBack,
    Work,
)
from heterofed.protocol.plan import Averaging, Plan, RoleSites
from heterofed.protocol.session import Session
from heterofed.protocol.states import Role, State

Purpose = Literal["train", "psi", "overlap", "predict", "serve", "rehearse", "average", "probe"]

H, C = Role.HOST, Role.COLLABORATOR
PLAN = Plan(
    host="bank",
    collaborators=("shop",),
    max_staleness=1,
    credit=2,
    max_peer_ids=100,
    max_batch_bytes=64,
)
WIDTH = 256
"""Bytes of one blinded value."""


class Line(NamedTuple):
    """Who says what, with how many bytes of payload."""

    speaker: Role
    message: Message
    size: int = 0


def tensor(*shape: int, name: str = "", dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)  # type: ignore[arg-type]


def hello(*rounds: int, trainable: bool = True, purpose: Purpose = "train") -> Line:
    """The first message; says which checkpoints are held, where there are any."""
    kept = Held(bytes(16), tuple(map(Mark, rounds))) if rounds else None
    return Line(C, Hello((1,), purpose, bytes(32), "shop", bytes(16), trainable, held=kept))


def welcome(plan: Plan = PLAN) -> Line:
    return Line(H, Welcome(1, bytes(16), bytes(32), plan))


def welcome_back(number: int, plan: Plan = PLAN) -> Line:
    return Line(H, WelcomeBack(1, bytes(16), bytes(32), plan, Mark(number)))


def features(batch: int, *tensors: TensorSpec, number: int = 1, rows: int = 2) -> Line:
    specs = tensors or (tensor(2, 3),)
    message = Features(number, batch, rows, "dict", specs)
    return Line(C, message, sum(spec.nbytes for spec in specs))


def gradients(batch: int, *tensors: TensorSpec, number: int = 1, last: bool = False) -> Line:
    """`last`: they are those that count, and the batch is done."""
    return Line(H, Gradients(number, batch, tensors, last), sum(spec.nbytes for spec in tensors))


def done(
    batch: int, *, number: int = 1, stepped: bool = True, staleness: int | None = None
) -> Line:
    return Line(H, BatchDone(number, batch, stepped, staleness))


def seen(batch: int, *, number: int = 1, others: int = 1) -> Line:
    return Line(C, GradientsSeen(number, batch, (bytes(32),) * others))


def seen_by_others(batch: int, *, number: int = 1, others: int = 1) -> Line:
    return Line(H, SeenByOthers(number, batch, (bytes(32),) * others))


def blinded(values: int, width: int = WIDTH) -> Line:
    return Line(H, PsiBlinded(values), values * width)


def signed(values: int, width: int = WIDTH) -> Line:
    return Line(C, PsiSigned(values), values * width)


def tags(values: int) -> Line:
    return Line(C, PsiTags(values), values * 16)


def matched(values: int, *, last: bool) -> Line:
    return Line(H, PsiMatched(values, last), values * 16)


def round_end(number: int, *, best: bool = False, last: bool = False) -> Line:
    return Line(H, RoundEnd(number, best, last))


def keep(number: int, batch: int) -> Line:
    return Line(H, Checkpoint(number, batch))


def kept(number: int, batch: int = 0) -> Line:
    return Line(C, CheckpointHeld(number, batch))


def finish(rounds: int) -> Line:
    return Line(H, Finish(rounds))


FINISH = finish(1)
BYE = Line(C, Bye())
ABORT = Abort("internal", "train", "shop", 1, 0, (1, 2))
WAITING = Line(H, Waiting("shop"))
KEY = Line(C, PsiKey(4), 500)
OLD_KEY = Line(C, PsiKey(4, kept=True), 500)
RENEW = Line(H, PsiRenew())
BEGIN = Line(H, PsiBegin(7, 2))
SPLIT_PLAN = Line(H, SplitPlan(bytes(32), bytes(32), 2, 1))
ACCEPTED = Line(C, SplitAccepted())


def parts(ids: int) -> Line:
    return Line(H, SplitParts(ids), -(-ids // 4))


def go_on(number: int, first: int) -> Line:
    return Line(H, BeginTrain(number, 1, first))


def begin_train(number: int, staleness: int = 1) -> Line:
    return Line(H, BeginTrain(number, staleness))


def begin_test(number: int) -> Line:
    return Line(H, BeginTest(number))


def end(count: int, *, number: int = 1) -> Line:
    return Line(C, EndOfFeatures(number, count))


GREETING = (hello(), welcome())
SIGNING = (OLD_KEY, RENEW, KEY, BEGIN, blinded(3), signed(3), blinded(2), signed(2))
UNBLINDED = Line(H, PsiUnblinded())
TAGGED = Line(C, PsiTagged(3))
MATCHING = (UNBLINDED, TAGGED, tags(3), tags(1), matched(2, last=False), matched(1, last=True))
SPLITTING = (SPLIT_PLAN, ACCEPTED)
PREPARED = (*GREETING, *SIGNING, *MATCHING, *SPLITTING)
"""Everything up to READY."""

IN_LEGS = msgspec.structs.replace(PLAN, checkpoint_batches=2, batch_size=2)
"""A plan with a checkpoint after every second batch."""

ANNOUNCED = msgspec.structs.replace(PLAN, announced_split=True)
"""A plan in which the Host splits for all."""

ROUND = (
    begin_train(1),
    features(0),
    gradients(0, tensor(2, 3)),
    done(0),
    features(1),
    end(2),
    gradients(1),
    done(1),
)
SUMS = msgspec.structs.replace(PLAN, fusion="masked_sum", collaborators=("shop", "inn"))
"""A plan in which the Host gets sums."""


def masked(batch: int, *, number: int = 1) -> Line:
    return Line(C, Features(number, batch, 2, "tensor", (tensor(2, 3, dtype="int64"),)), 48)


SUMMED = (
    begin_train(1),
    masked(0),
    gradients(0, tensor(2, 3), last=True),
    masked(1),
    seen(0),
    done(1),
    seen_by_others(0),
    seen(1),
    seen_by_others(1),
    end(2),
)
"""A round whose gradients the Collaborators compare."""

SITES = Plan(
    host="bank",
    collaborators=("shop", "inn"),
    batch_size=2,
    announced_split=True,
    max_peer_ids=100,
    max_batch_bytes=64,
    sites=(RoleSites("trade", ("shop", "inn")),),
)
"""A plan in which this party is the first site of a role."""


def site_rows(batches: int, *, number: int = 1, testing: bool = False) -> Line:
    return Line(H, SiteRows(number, batches, testing), 4 * batches)


def share(batch: int, *, number: int = 1, size: int = 32, keys: int = 0) -> Line:
    return Line(C, SiteShare(number, batch, bytes(32), (bytes(48),) * keys), size)


def site_sum(batch: int, *, number: int = 1, size: int = 32, key: bytes | None = None) -> Line:
    return Line(H, SiteSum(number, batch, key), size)


def no_rows(batch: int, *, number: int = 1) -> Line:
    """A batch of which a site has no row."""
    return Line(C, Features(number, batch, 0, "tensor", ()))


SITE_PREPARED = (
    hello(),
    welcome(SITES),
    *SIGNING,
    *MATCHING,
    Line(H, SplitParts(3), 1),
    SPLIT_PLAN,
    share(0, number=0, size=48, keys=1),
    site_sum(0, number=0, size=48),
    ACCEPTED,
)
SITE_ROUND = (
    site_rows(2),
    begin_train(1, 0),
    features(0),
    gradients(0, tensor(2, 3), last=True),
    share(0),
    site_sum(0),
    no_rows(1),
    done(1),
    share(1),
    site_sum(1),
    end(2),
)
"""A round at a site, which has no row of the second batch."""

SITE_RUN = (
    *SITE_PREPARED,
    *SITE_ROUND,
    site_rows(1, testing=True),
    begin_test(1),
    no_rows(0),
    done(0, stepped=False),
    end(1),
    round_end(1),
    kept(1),
    FINISH,
    BYE,
)
"""One task at the first site of a role."""

TEST = (begin_test(1), features(0), end(1), done(0, stepped=False))

HONEST_RUN = (
    *PREPARED,
    WAITING,
    *ROUND,
    *TEST,
    round_end(1, best=True),
    kept(1),
    FINISH,
    BYE,
)
"""One task from Hello to Bye; passes through every state but FAILED."""

RESUMED = (hello(2, 3), welcome_back(3))
"""A run that goes on from its third round; at READY."""

INTERSECTED = (hello(purpose="psi"), welcome(), *SIGNING, *MATCHING)
PSI_RUN = (*INTERSECTED, finish(0), BYE)
"""One task that only intersects ids."""


def points(message: CountBlinded | CountRaised | CountOwn) -> Line:
    return Line(H if isinstance(message, CountBlinded) else C, message, message.values * 32)


COUNTING = (hello(purpose="overlap"), welcome(), Line(H, CountBegin(5)), Line(C, CountReady(4)))
ANSWERED = (
    *COUNTING,
    points(CountBlinded(3)),
    points(CountBlinded(2)),
    Line(C, PsiTagged(7)),
    points(CountRaised(4)),
    points(CountRaised(1)),
    points(CountOwn(3)),
    points(CountOwn(1)),
)
WORK = Work(100, 80, 5, 32, 8, 20)
FACTS = Facts("1.0", "3.13.1", "2.9.0+cpu", 2, 10**9, 10**10, 1024, 70, 1e-5, 2e-5, 1e-5, 1e-3)
LINK = LinkFacts(0.02, 1e7, 1e7, -0.5)
PROBE_BEGUN = (hello(purpose="probe"), Line(H, ProbeBegin(WORK)))
PROBE_READY = (*PROBE_BEGUN, Line(H, ProbeFacts(FACTS)))
PINGED = (*PROBE_READY, Line(C, ProbePing(0, 7), 5))
PROBE_RUN = (*PINGED, Line(H, ProbePong(0, 1.8e9), 7), Line(C, ProbeResult(FACTS, LINK)))
COUNT_RUN = (*ANSWERED, Line(H, CountResult(2)), finish(0), BYE)
"""One count of common ids."""

PREDICT_PLAN = Line(H, PredictPlan(bytes(16), 3, "last", 3, bytes(32)))
PREDICT_ACCEPTED = Line(C, PredictAccepted())
PREDICTED = (hello(purpose="predict"), welcome(), *SIGNING, *MATCHING, PREDICT_PLAN)
PREDICT_RUN = (
    *PREDICTED,
    PREDICT_ACCEPTED,
    begin_test(3),
    features(0, number=3),
    end(1, number=3),
    done(0, number=3, stepped=False),
    finish(3),
    BYE,
)
"""One prediction with models of three rounds."""

VERSION = bytes(32)


def serve_plan(count: int) -> Line:
    return Line(H, ServePlan(bytes(16), 3, "best", count, bytes(32), VERSION))


def asked(number: int, rows: int = 2) -> Line:
    return Line(H, ServeRequest(number, rows, VERSION), 4 * rows)


def answered(number: int, rows: int = 2) -> Line:
    spec = tensor(rows, 3)
    return Line(C, ServeAnswer(number, rows, VERSION, "dict", (spec,)), spec.nbytes)


def refused(number: int) -> Line:
    return Line(C, ServeAnswer(number, 0, VERSION, refused="limit", retry_after=60))


SERVE_ACCEPTED = Line(C, ServeAccepted(VERSION))
SERVE_REFUSED = Line(C, ServeAccepted(VERSION, "other_version"))
SERVED = (hello(purpose="serve"), welcome(), *SIGNING, *MATCHING, serve_plan(3), SERVE_ACCEPTED)
SERVE_RUN = (
    *SERVED,
    asked(0),
    asked(1),
    answered(0),
    refused(1),
    asked(2),
    answered(2),
    finish(3),
    BYE,
)
"""A standing link that was ended; its models are of three rounds."""


AVERAGED = msgspec.structs.replace(PLAN, averaging=Averaging(), max_batch_bytes=100)
"""The plan of a horizontal task."""

LAYOUT = (
    WeightSpec("weight", "float32", (2, 3), learns=True),
    WeightSpec("steps", "int64", (), learns=False),
)
WEIGHTS = 32
"""The bytes of these tensors."""

DESCRIBED = (
    hello(purpose="average"),
    welcome(AVERAGED),
    Line(H, DescribeModel(weights=True)),
    Line(C, ModelLayout(LAYOUT), WEIGHTS),
)


def update(number: int, size: int = WEIGHTS, rows: int = 4) -> Line:
    return Line(C, Update(number, rows, (("loss", 0.5),)), size)


def average(number: int, size: int = WEIGHTS) -> Line:
    return Line(H, Average(number), size)


def begin_update(number: int) -> Line:
    return Line(H, BeginUpdate(number))


SCORED = (Line(H, BeginScores(1)), Line(C, Scores(1, 4, (("accuracy", 0.9),))))
PREPARED_TO_AVERAGE = (*DESCRIBED, Line(H, InitialWeights(), WEIGHTS), Line(C, WeightsHeld()))
AVERAGE_RUN = (
    *PREPARED_TO_AVERAGE,
    begin_update(1),
    update(1),
    average(1),
    *SCORED,
    round_end(1),
    kept(1),
    average(2),  # a round for which others were drawn
    round_end(2, last=True),
    kept(2),
    finish(2),
    BYE,
)
"""One horizontal task."""


def view(session: Session) -> str:
    """All that a session holds, for telling whether anything changed: without its role, and what
    it remembers only so as not to check a message twice.
    """
    beside = ("role", "_admitted")
    held = {name: value for name, value in vars(session).items() if name not in beside}
    ours = counts.__name__
    return repr({k: vars(v) if type(v).__module__ == ours else v for k, v in held.items()})


class Link:
    """Both ends of one connection."""

    def __init__(self, *lines: Line) -> None:
        self.ends = {role: Session(role) for role in Role}
        self.say(*lines)

    @property
    def state(self) -> State:
        """The state that both ends hold."""
        host, collaborator = self.ends[H], self.ends[C]
        assert host.state is collaborator.state
        assert host.batch_window == collaborator.batch_window
        assert host.psi_window == collaborator.psi_window
        return host.state

    def say(self, *lines: Line) -> None:
        for speaker, message, size in lines:
            self.ends[speaker].send(message, size)
            listener = self.ends[speaker.other]
            before = view(listener)
            listener.admit(message, size)
            assert view(listener) == before, "admit must change nothing"
            assert listener.receive(message, size)
            assert view(listener) == view(self.ends[speaker]), self.state

    def refuses(self, line: Line) -> str:
        """Assert that neither end lets the line pass, or changes by it; returns why."""
        speaker, message, size = line
        before = {role: view(session) for role, session in self.ends.items()}
        reasons = []
        try:
            self.ends[speaker].send(message, size)
        except LocalProtocolError as error:
            reasons.append(str(error))
        for hear in (self.ends[speaker.other].admit, self.ends[speaker.other].receive):
            try:
                hear(message, size)
            except RemoteProtocolError as error:
                reasons.append(str(error))
        assert len(reasons) == 3, f"{line} was let through by one end or both"
        assert len(set(reasons)) == 1
        assert {role: view(session) for role, session in self.ends.items()} == before
        return reasons[0]


HORIZONTAL = frozenset(
    {
        State.MODEL_ASKED,
        State.MODEL_DESCRIBED,
        State.WEIGHTS_SENT,
        State.UPDATING,
        State.AVERAGING,
        State.SCORING,
    }
)
"""The states of a horizontal task alone."""


def link_in(state: State) -> Link:
    """A link that has honestly come to `state`."""
    link = Link()
    run: tuple[Line, ...] = HONEST_RUN
    if state is State.PREDICT_PROPOSED:
        run = PREDICT_RUN
    elif state.startswith("serv"):
        run = SERVE_RUN
    elif state.startswith("psi_count"):
        run = COUNT_RUN
    elif state in HORIZONTAL:
        run = AVERAGE_RUN
    elif state.startswith("probe"):
        run = PROBE_RUN
    for line in run:
        if link.state is state:
            return link
        link.say(line)
    if state is State.FAILED:
        link = Link(hello(), Line(H, ABORT))
    assert link.state is state
    return link
