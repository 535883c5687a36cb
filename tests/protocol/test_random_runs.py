"""Thousands of two-ended runs in random order, with mail in flight both ways: all of them end."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random

import msgspec
import pytest

from heterofed.protocol.messages import (
    Abort,
    Average,
    BatchDone,
    BeginScores,
    BeginTest,
    BeginTrain,
    BeginUpdate,
    Checkpoint,
    CountBegin,
    CountBlinded,
    CountOwn,
    CountRaised,
    CountReady,
    CountResult,
    DescribeModel,
    Features,
    Findings,
    Finish,
    Gradients,
    GradientsSeen,
    InitialWeights,
    Message,
    ModelLayout,
    PredictAccepted,
    PredictPlan,
    ProbePing,
    ProbePong,
    PsiBegin,
    PsiBlinded,
    PsiKey,
    PsiRenew,
    PsiSigned,
    PsiTagged,
    PsiTags,
    RoundEnd,
    Scores,
    SeenByOthers,
    ServePlan,
    SiteShare,
    SiteSum,
    SplitPlan,
    StoredBegin,
    StoredBlinded,
    StoredClaims,
    StoredEvaluated,
    StoredFilter,
    StoredOffer,
    StoredReplies,
    TensorSpec,
    Terms,
    Update,
    WeightsHeld,
    Welcome,
)
from heterofed.protocol.plan import Averaging, Plan, RoleSites
from heterofed.protocol.session import Session
from heterofed.protocol.states import TABLE, Role, State

from .link import (
    ABORT,
    ACCEPTED,
    BYE,
    LAYOUT,
    PROBE_BEGUN,
    PROBE_READY,
    PROBE_RUN,
    SERVE_ACCEPTED,
    SERVE_REFUSED,
    SPLIT_PLAN,
    UNBLINDED,
    WAITING,
    WEIGHTS,
    C,
    H,
    Line,
    Purpose,
    answered,
    asked,
    blinded,
    done,
    end,
    features,
    finish,
    gradients,
    hello,
    kept,
    masked,
    matched,
    no_rows,
    parts,
    points,
    refused,
    seen,
    seen_by_others,
    share,
    signed,
    site_rows,
    site_sum,
    stored,
    tags,
    tensor,
    view,
    welcome,
    welcome_back,
)

MOST_STEPS = 5000
ID_TASKS: tuple[Purpose, ...] = ("psi", "overlap", "stored")
FILTER_BYTES = 40
SHAPES = (tensor(2, 3), tensor(2, name="b", dtype="int64"), tensor(2, 1, name="c"))


@dataclass
class Job:
    """What one run is about; each script looks only at its own party's half."""

    random: Random
    purpose: Purpose = "train"
    trainable: bool = True
    plan: Plan = field(init=False)
    host_ids: int = field(init=False)
    shop_ids: int = field(init=False)
    common: int = field(init=False)
    schedule: list[Message] = field(init=False)
    refused: bool = field(init=False)
    resumed: int | None = field(init=False)

    @property
    def averages(self) -> bool:
        return self.purpose == "average"

    @property
    def sums(self) -> bool:
        return self.plan.fusion == "masked_sum"

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of this party's role; none if it is no site."""
        return self.plan.sites[0].parties if self.plan.sites else ()

    @property
    def leads(self) -> bool:
        return self.sites[0] == "shop"

    def __post_init__(self) -> None:
        draw = self.random.randint
        purposes: tuple[Purpose, ...] = (
            *("psi", "overlap", "stored", "predict", "serve", "average", "train", "probe"),
        )
        self.purpose = self.random.choices(purposes, (4, 2, 6, 4, 4, 4, 12, 1))[0]
        self.trainable = self.random.random() < 0.7
        self.host_ids, self.shop_ids = draw(1, 30), draw(1, 12)
        self.common = draw(0, min(self.host_ids, self.shop_ids))
        self.plan = Plan(
            host="bank",
            collaborators=("shop",),
            max_staleness=self.random.choice([0, 1, 3, "auto"]),
            credit=draw(1, 4),
            max_peer_ids=30,
            max_batch_bytes=56,
            checkpoint_batches=draw(0, 3),
            batch_size=2,
            psi_bits=self.random.choice([2048, 3072, 4096]),
            fusion=self.random.choice(["separate", "separate", "masked_sum"]),
            announced_split=self.random.random() < 0.4,
            final_rows=draw(0, 1),
            averaging=Averaging() if self.purpose == "average" else None,
        )
        if self.purpose == "train" and self.random.random() < 0.25:
            sites = ("shop", "inn") if self.random.random() < 0.5 else ("inn", "shop")
            self.plan = msgspec.structs.replace(
                self.plan,
                collaborators=sites,
                max_staleness=0,
                fusion="separate",
                announced_split=True,
                final_rows=0,
                sites=(RoleSites("trade", sites),),
            )
        self.refused = self.random.random() < 0.02
        self.schedule = []
        agreed = self.plan.max_staleness
        kept = ("train", "serve", "average")
        may_resume = self.purpose in kept and self.random.random() < 0.3
        self.resumed = draw(0, 3) if may_resume else None
        rounds = draw(0, 3) + (self.resumed or 0)
        if self.purpose == "serve":
            self.resumed = None if self.resumed is None else 0
            self.schedule.append(Finish(rounds + 1))
            return
        if self.purpose == "predict":
            self.schedule += [BeginTest(rounds + 1)] * draw(0, 1) + [Finish(rounds + 1)]
            return
        for number in range(1 + (self.resumed or 0), rounds + 1) if self.averages else ():
            self.schedule += [BeginUpdate(number)] * draw(0, 1)
            self.schedule.append(Average(number))
            self.schedule += [BeginScores(number)] * draw(0, 1)
            self.schedule.append(RoundEnd(number, draw(0, 1) == 1, number == rounds))
        for number in range(1 + (self.resumed or 0), rounds + 1) if not self.averages else ():
            self.schedule.append(BeginTrain(number, draw(0, 2) if agreed == "auto" else agreed))
            self.schedule += [BeginTest(number)] * draw(0, 1)
            self.schedule.append(RoundEnd(number, draw(0, 1) == 1, number == rounds))
        if rounds and self.plan.final_rows and not self.averages:
            self.schedule += [BeginTest(rounds), Findings(())]
        self.schedule.append(Finish(rounds))


class HostScript:
    """What an honest Host says next, from what it has said and heard."""

    def __init__(self, job: Job) -> None:
        self.job, self.random = job, job.random
        self.unasked = self.unsigned = job.host_ids
        self.tags_to_come = 0
        self.to_come = 0
        self.old_key = False
        self.unmatched = job.common
        self.unparted = 0
        self.todo = list(job.schedule)
        self.waiting: deque[tuple[TensorSpec, ...]] = deque()
        self.batch = self.number = 0
        self.last: Message | None = None
        self.answers = 0
        self.asking = self.asked = 0
        self.seen: deque[GradientsSeen] = deque()
        self.shares: deque[SiteShare] = deque()
        self.sums = 0
        self.rows_told = False
        self.ping: ProbePing | None = None
        self.to_fetch = 0
        self.unevaluated = job.host_ids
        self.unclaimed = job.common

    def hear(self, message: Message) -> None:
        match message:
            case PsiKey(count=count, kept=kept):
                self.tags_to_come, self.old_key = count, kept
            case CountReady(count=count):
                self.to_come = self.job.host_ids + count
            case CountRaised(values=values) | CountOwn(values=values):
                self.to_come -= values
            case StoredOffer(size=size):
                self.to_fetch = size
            case StoredEvaluated(values=values):
                self.unevaluated -= values
            case PsiSigned(values=values):
                self.unsigned -= values
            case PsiTags(values=values):
                self.tags_to_come -= values
            case Features(tensors=tensors):
                self.waiting.append(tensors)
            case GradientsSeen():
                self.seen.append(message)
            case SiteShare():
                self.shares.append(message)
            case ProbePing():
                self.ping = message
            case _:
                pass

    def next(self, session: Session) -> Line | None:
        match session.state:
            case State.GREETED:
                if self.job.refused:
                    return Line(H, Terms(b"t"))
                if self.job.resumed is not None:
                    return welcome_back(self.job.resumed, self.job.plan)
                if self.job.purpose == "probe":
                    return PROBE_BEGUN[-1]
                return welcome(self.job.plan)
            case State.PROBE_BEGUN:
                return PROBE_READY[-1]
            case State.PROBE_ASKED:
                assert self.ping is not None
                return Line(H, ProbePong(self.ping.number, 1.0), self.ping.reply)
            case State.PSI if self.job.purpose == "overlap":
                return Line(H, CountBegin(self.job.host_ids))
            case State.PSI if self.job.averages:
                return Line(H, DescribeModel(weights=False))
            case State.MODEL_DESCRIBED:
                return Line(H, InitialWeights(), WEIGHTS)
            case State.AVERAGING:
                return self.average()
            case State.READY if isinstance(self.todo[0], Average):
                return self.average()
            case State.PSI_COUNT_ASKED if self.unasked:
                chunk = self.random.randint(1, self.unasked)
                self.unasked -= chunk
                return points(CountBlinded(chunk))
            case State.PSI_COUNT_OWN if not self.to_come:
                return Line(H, CountResult(self.job.common))
            case State.PSI_STORED:
                fetch = self.random.random() < 0.7
                return Line(H, StoredBegin(self.job.host_ids, fetch))
            case State.PSI_STORED_ASKED if session.stored.to_fetch:
                return None
            case State.PSI_STORED_ASKED if self.unasked and len(session.stored.unevaluated) < 8:
                chunk = self.random.randint(1, self.unasked)
                self.unasked -= chunk
                return stored(StoredBlinded(chunk))
            case State.PSI_STORED_ASKED if self.unasked or self.unevaluated:
                return None
            case State.PSI_STORED_ASKED | State.PSI_STORED_CLAIMED:
                if session.stored.all_claimed:
                    return None
                last = self.unclaimed == 0 or self.random.random() < 0.1
                chunk = self.unclaimed if last else self.random.randint(1, self.unclaimed)
                self.unclaimed -= chunk
                return stored(StoredClaims(chunk, last))
            case State.PSI_KEYED if self.old_key and self.random.random() < 0.5:
                return Line(H, PsiRenew())
            case State.PSI_KEYED:
                done = self.random.randint(0, self.job.host_ids)
                self.unasked -= done
                self.unsigned -= done
                return Line(H, PsiBegin(self.job.host_ids, done))
            case State.PSI_SIGNING if self.unasked and session.psi_window:
                chunk = self.random.randint(1, min(3, self.unasked))
                self.unasked -= chunk
                return blinded(chunk, self.job.plan.psi_bits // 8)
            case State.PSI_SIGNING if not self.unasked and not self.unsigned:
                return UNBLINDED
            case State.PSI_TAGS if self.tags_to_come:
                return None
            case State.PSI_TAGS | State.PSI_MATCHED:
                last = self.unmatched == 0 or self.random.random() < 0.1
                least = 0 if last else 1
                chunk = self.unmatched if last else self.random.randint(least, self.unmatched)
                self.unmatched -= chunk
                self.unparted += chunk
                return matched(chunk, last=last)
            case State.SPLIT | State.READY if self.job.purpose == "serve":
                self.asking = self.random.randint(0, 6)
                rounds = self.job.schedule[-1].rounds  # type: ignore[attr-defined]
                some = self.random.randint(0, self.job.common)
                return Line(H, ServePlan(bytes(16), rounds, "last", some, bytes(32), bytes(32)))
            case State.SERVING if self.asking and session.serve_window:
                if not session.proposes and self.random.random() < 0.3:
                    return Line(H, ServePlan(bytes(16), 1, "best", 0, bytes(32), bytes(32)))
                self.asking -= 1
                self.asked += 1
                return asked(self.asked - 1)
            case State.SERVING if not (self.asking or session.unanswered or session.proposes):
                return Line(H, self.job.schedule[-1])
            case State.SPLIT:
                if self.job.purpose == "predict":
                    rounds = self.job.schedule[-1].rounds  # type: ignore[attr-defined]
                    some = self.random.randint(0, self.job.common)
                    return Line(H, PredictPlan(bytes(16), rounds, "best", some, bytes(32)))
                if self.job.purpose == "train" and self.job.plan.announced_split and self.unparted:
                    chunk = self.random.randint(1, self.unparted)
                    self.unparted -= chunk
                    return parts(chunk)
                return finish(0) if self.job.purpose in ID_TASKS else SPLIT_PLAN
            case State.SPLIT_PROPOSED if self.shares:
                return self.add_up(48)
            case State.READY:
                every, message = self.job.plan.checkpoint_batches, self.last
                training = isinstance(message, BeginTrain) and self.batch > message.first
                training = training and not self.rows_told
                if training and every and self.batch % every == 0 and self.random.random() < 0.7:
                    again = BeginTrain(self.number, session.staleness, self.batch)
                    self.todo.insert(0, again)
                    self.last = Checkpoint(self.number, self.batch)
                    return Line(H, self.last)
                following = self.todo[0]
                if (
                    self.job.sites
                    and not self.rows_told
                    and isinstance(following, BeginTrain | BeginTest)
                ):
                    self.rows_told = True
                    testing = isinstance(following, BeginTest)
                    return site_rows(4, number=following.round, testing=testing)
                self.rows_told = False
                self.last = self.todo.pop(0)
                self.batch = getattr(self.last, "first", 0)
                self.number = getattr(self.last, "round", 0)
                return Line(H, self.last)
            case State.TRAIN | State.TRAIN_DRAINING | State.TEST | State.TEST_DRAINING as state:
                return self.deal_with_batch(session, train=state.startswith("train"))
        return None

    def add_up(self, size: int = 32) -> Line:
        said = self.shares.popleft()
        key = bytes(48) if not self.sums and not self.job.leads else None
        self.sums += 1
        return site_sum(said.batch, number=said.round, size=size, key=key)

    def average(self) -> Line:
        self.last = self.todo.pop(0)
        return Line(H, self.last, WEIGHTS)

    def deal_with_batch(self, session: Session, *, train: bool) -> Line | None:
        if self.seen and (not self.waiting or self.random.random() < 0.5):
            batch = self.seen.popleft().batch
            return seen_by_others(batch, number=self.number, others=0)
        if self.shares:
            return self.add_up()
        if not self.waiting:
            return None
        number = self.number
        some = bool(self.waiting[0])  # a site may have no row of a batch
        if (
            some
            and train
            and self.job.trainable
            and self.answers < 2
            and self.random.random() < 0.7
        ):
            self.answers += 1
            floats = [spec for spec in self.waiting[0] if spec.dtype == "float32"]
            if self.job.sums:
                floats = [tensor(2, 3)]
            used = [spec for spec in floats if self.random.random() < 0.8]
            last = self.random.random() < 0.5
            line = gradients(self.batch, *used, number=number, last=last)
            if last:
                self.go_on()
            return line
        self.go_on()
        chooses = train and self.job.plan.max_staleness == "auto" and self.random.random() < 0.2
        chosen = session.staleness + self.random.randint(0, 3) if chooses else None
        return done(self.batch - 1, number=number, stepped=train, staleness=chosen)

    def go_on(self) -> None:
        self.waiting.popleft()
        self.answers = 0
        self.batch += 1


class CollaboratorScript:
    """What an honest Collaborator says next, from what it has said and heard."""

    def __init__(self, job: Job) -> None:
        self.job, self.random = job, job.random
        self.to_sign = self.width = 0
        self.unsigned: deque[int] = deque()
        self.untagged = job.shop_ids
        self.made = 0
        self.unraised = self.raised = job.host_ids
        self.keyed = self.renewed = False
        self.batches = self.sent = self.number = self.asked = 0
        self.shapes = self.random.sample(SHAPES, self.random.randint(1, 3))
        self.unseen: deque[int] = deque()
        self.told = self.pings = 0
        self.shared = self.summed = self.done = 0
        self.to_ship = 0
        self.values: deque[int] = deque()
        self.claims: deque[int] = deque()

    def hear(self, message: Message) -> None:
        match message:
            case Welcome(plan=plan):
                self.width = plan.psi_bits // 8
            case PsiBegin(count=count, done=done):
                self.to_sign = count - done
            case BeginUpdate(round=number) | Average(round=number) | BeginScores(round=number):
                self.number = number
            case BeginTrain(round=number) | BeginTest(round=number):
                self.number, self.sent = number, getattr(message, "first", 0)
                self.batches = self.sent + self.random.randint(0, 6)
                self.told = self.done = self.sent
                self.unseen.clear()
            case BatchDone(batch=batch) | Gradients(batch=batch, done=True):
                self.unseen.append(batch)
                self.done = batch + 1
            case SeenByOthers():
                self.told += 1
            case SiteSum():
                self.summed += 1
            case Checkpoint(batch=batch):
                self.asked = batch
            case RoundEnd():
                self.asked = 0
            case PsiBlinded(values=values):
                self.unsigned.append(values)
            case CountBlinded(values=values):
                self.unraised -= values
            case StoredBegin(fetch=fetch):
                self.to_ship = FILTER_BYTES if fetch else 0
            case StoredBlinded(values=values):
                self.values.append(values)
            case StoredClaims(values=values) if values:
                self.claims.append(values)
            case _:
                pass

    def next(self, session: Session) -> Line | None:
        match session.state:
            case State.CONNECTING:
                held = [] if self.job.resumed is None else [self.job.resumed]
                return hello(*held, trainable=self.job.trainable, purpose=self.job.purpose)
            case State.PROBE if self.pings < self.job.shop_ids:
                self.pings += 1
                reply, size = self.random.randint(0, 99), self.random.randint(0, 99)
                return Line(C, ProbePing(self.pings - 1, reply), size)
            case State.PROBE:
                return PROBE_RUN[-1]
            case State.PSI if self.job.purpose == "overlap" or self.job.averages:
                return None
            case State.MODEL_ASKED:
                return Line(C, ModelLayout(LAYOUT))
            case State.WEIGHTS_SENT:
                return Line(C, WeightsHeld())
            case State.UPDATING:
                size = 7 * 8 if self.job.sums else WEIGHTS
                return Line(C, Update(self.number, 4), size)
            case State.SCORING:
                return Line(C, Scores(self.number, 4))
            case State.PSI_COUNT:
                return Line(C, CountReady(self.job.shop_ids))
            case State.PSI_COUNT_ASKED if self.unraised:
                return None
            case State.PSI_COUNT_ASKED if not self.made and self.random.random() < 0.5:
                self.made = self.random.randint(1, self.job.shop_ids)
                return Line(C, PsiTagged(self.made))
            case State.PSI_COUNT_ASKED | State.PSI_COUNT_RAISED if self.raised:
                chunk = self.random.randint(1, self.raised)
                self.raised -= chunk
                return points(CountRaised(chunk))
            case State.PSI_COUNT_RAISED | State.PSI_COUNT_OWN if self.untagged:
                chunk = self.random.randint(1, self.untagged)
                self.untagged -= chunk
                return points(CountOwn(chunk))
            case State.PSI if self.job.purpose == "stored":
                return Line(C, StoredOffer("ab" * 8, self.job.shop_ids, FILTER_BYTES))
            case State.PSI_STORED_ASKED if self.to_ship:
                chunk = self.random.randint(1, self.to_ship)
                self.to_ship -= chunk
                return Line(C, StoredFilter(), chunk)
            case State.PSI_STORED_ASKED if self.values:
                return stored(StoredEvaluated(self.values.popleft()))
            case State.PSI_STORED_CLAIMED if self.claims:
                return stored(StoredReplies(self.claims.popleft()))
            case State.PSI:
                self.renewed |= self.keyed  # it was asked for another key
                self.keyed = True
                old = not self.renewed and self.random.random() < 0.3
                return Line(C, PsiKey(self.job.shop_ids, old), 500)
            case State.PSI_SIGNING if self.unsigned:
                chunk = self.unsigned.popleft()
                self.to_sign -= chunk
                return signed(chunk, self.width)
            case State.PSI_SIGNED if self.made < self.untagged and self.random.random() < 0.3:
                self.made = self.random.randint(self.made + 1, self.untagged)
                return Line(C, PsiTagged(self.made))
            case State.PSI_SIGNED | State.PSI_TAGS if self.untagged:
                chunk = self.random.randint(1, self.untagged)
                self.untagged -= chunk
                return tags(chunk)
            case State.PREDICT_PROPOSED:
                return Line(C, PredictAccepted())
            case State.SERVE_PROPOSED:
                return SERVE_ACCEPTED
            case State.SERVING if session.proposes and self.random.random() < 0.5:
                return SERVE_ACCEPTED if self.random.random() < 0.5 else SERVE_REFUSED
            case State.SERVING if session.unanswered:
                self.told += 1
                good = self.random.random() < 0.7
                return answered(self.told - 1) if good else refused(self.told - 1)
            case State.SPLIT_PROPOSED if self.job.sites and not self.shared:
                return self.share(0, number=0, size=48)
            case State.SPLIT_PROPOSED if self.job.sites and not self.summed:
                return None
            case State.SPLIT_PROPOSED:
                return ACCEPTED
            case State.TRAIN | State.TEST:
                return self.next_batch(session)
            case State.CHECKPOINT:
                return kept(self.number, self.asked)
            case State.FINISHING:
                return BYE
        return None

    def share(self, batch: int, *, number: int, size: int = 32) -> Line:
        keys = int(not self.shared and self.job.leads)
        self.shared += 1
        return share(batch, number=number, size=size, keys=keys)

    def next_batch(self, session: Session) -> Line | None:
        if self.job.sites and self.job.trainable and session.state is State.TRAIN:
            if self.unseen:
                return self.share(self.unseen.popleft(), number=self.number)
            if self.summed < self.shared or self.done < self.sent:
                return None  # a batch is under way: its sum comes before the next one
        compares = self.job.sums and self.job.trainable and session.state is State.TRAIN
        if compares and self.unseen and self.random.random() < 0.5:
            return seen(self.unseen.popleft(), number=self.number, others=0)
        if self.sent == self.batches:
            if compares and (self.unseen or self.told < self.sent):
                return (
                    seen(self.unseen.popleft(), number=self.number, others=0)
                    if self.unseen
                    else None
                )
            return end(self.batches, number=self.number)
        if session.batch_window == 0:
            return None
        self.sent += 1
        if self.job.sums:
            return masked(self.sent - 1, number=self.number)
        if self.job.sites and self.random.random() < 0.3:
            return no_rows(self.sent - 1, number=self.number)
        return features(self.sent - 1, *self.shapes, number=self.number)


class Run:
    """Two parties, two queues, and a random order of events."""

    def __init__(self, seed: int, *, aborts: bool = False, losses: bool = False) -> None:
        self.random = Random(seed)
        self.job = job = Job(self.random)
        self.sessions = {role: Session(role) for role in Role}
        self.scripts: dict[Role, HostScript | CollaboratorScript] = {
            H: HostScript(job),
            C: CollaboratorScript(job),
        }
        self.mail: dict[Role, deque[Line]] = {role: deque() for role in Role}
        self.admitted: dict[Role, bool] = dict.fromkeys(Role, False)
        self.ready: dict[Role, Line | None] = dict.fromkeys(Role)
        self.abort_chance = self.random.choice([0.002, 0.02, 0.1]) if aborts else 0.0
        self.loss_chance = self.random.choice([0.002, 0.02, 0.1]) if losses else 0.0
        # An unhurried network makes long queues, an unhurried party empty ones.
        self.pace = {
            (kind, role): self.random.choice([1, 1, 10])
            for kind in ("speak", "hear", "lose")
            for role in Role
        }
        self.cut = False
        self.aborted: set[Role] = set()
        self.rows: set[tuple[State, Role, type[Message]]] = set()
        self.crossed = self.late = 0

    def events(self) -> list[tuple[str, Role]]:
        """Everything that may happen next. Speaking is settled by the script, not by chance."""
        events: list[tuple[str, Role]] = []
        for role, session in self.sessions.items():
            if not session.ended and self.ready[role] is None:
                self.ready[role] = self.scripts[role].next(session)
            if not session.ended and self.ready[role] is not None:
                events.append(("speak", role))
            if self.mail[role]:
                events.append(("hear", role))
            elif self.cut and not session.ended:
                events.append(("lose", role))
        return events

    def go(self) -> None:
        self.disturb()
        for _ in range(MOST_STEPS):
            events = self.events()
            if not events:
                break
            [(kind, role)] = self.random.choices(events, [self.pace[event] for event in events])
            getattr(self, kind)(role)
            self.disturb()
            if not any(self.mail.values()) and not self.cut:
                self.compare()
        assert not self.events(), "it never ends"
        states = {role: session.state for role, session in self.sessions.items()}
        assert all(session.ended for session in self.sessions.values()), f"somebody hangs: {states}"

    def disturb(self) -> None:
        for role, session in self.sessions.items():
            if not session.ended and self.random.random() < self.abort_chance:
                self.aborted.add(role)
                self.post(Line(role, ABORT))
        if not self.sessions[H].ended and self.random.random() < 0.05:
            self.post(WAITING)
        if not self.cut and self.random.random() < self.loss_chance:
            self.cut = True
            for queue in self.mail.values():
                for _ in range(self.random.randint(0, len(queue))):
                    queue.pop()
        for role in Role:
            self.admitted[role] = self.admitted[role] and bool(self.mail[role])

    def post(self, line: Line) -> None:
        speaker, message, size = line
        session = self.sessions[speaker]
        self.rows.add((session.state, speaker, type(message)))
        session.send(message, size)
        if not self.cut:
            self.mail[speaker.other].append(line)

    def speak(self, role: Role) -> None:
        line, self.ready[role] = self.ready[role], None
        assert line is not None
        self.post(line)

    def hear(self, role: Role) -> None:
        """A large message is admitted first, and received after more has been said."""
        _, message, size = self.mail[role][0]
        session = self.sessions[role]
        if not self.admitted[role]:
            session.admit(message, size)
            self.admitted[role] = True
            if self.random.random() < 0.5:
                return
        self.admitted[role] = False
        self.mail[role].popleft()
        before = session.state
        if session.receive(message, size):
            self.rows.add((before, role.other, type(message)))
            self.scripts[role].hear(message)
        else:
            self.late += 1
            self.crossed += isinstance(message, Abort) and role in self.aborted

    def lose(self, role: Role) -> None:
        self.sessions[role].lost()

    def compare(self) -> None:
        """With nothing in flight both ends hold the same, unless they ended crosswise."""
        host, collaborator = self.sessions[H], self.sessions[C]
        if host.ended and collaborator.ended:
            return
        assert view(host) == view(collaborator)


def runs(seeds: range, *, aborts: bool = False, losses: bool = False) -> list[Run]:
    finished = []
    for seed in seeds:
        run = Run(seed, aborts=aborts, losses=losses)
        try:
            run.go()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        finished.append(run)
    return finished


def endings(finished: list[Run]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(run.sessions[role].state.value for role in Role) for run in finished)


@pytest.mark.slow
def test_undisturbed_runs_all_close_and_use_every_row_of_the_table() -> None:
    finished = runs(range(1000))
    assert endings(finished) == {("closed", "closed"): 1000}
    used = set().union(*(run.rows for run in finished))
    table = {(state, *row) for state, rows in TABLE.items() for row in rows}
    assert used <= table
    assert {row for row in table - used if row[2] is not Abort} == set()
    every: set[Purpose] = {"train", "predict", "serve", "average", "probe", *ID_TASKS}
    assert {run.job.purpose for run in finished} == every
    for run in finished:
        said = {kind for _, _, kind in run.rows}
        assert (Terms in said) == run.job.refused
        if run.job.refused:
            continue
        fresh = run.job.purpose == "train" and run.job.resumed is None
        assert (SplitPlan in said) == fresh
        of_ids = run.job.purpose in ID_TASKS
        assert ((State.SPLIT, H, Finish) in run.rows) == of_ids


@pytest.mark.slow
def test_runs_with_aborts_from_either_side_all_end() -> None:
    finished = runs(range(10_000, 13_000), aborts=True)
    ends = endings(finished)
    assert ends["failed", "failed"] > 100
    assert ends["closed", "closed"] > 10
    assert all(run.aborted for run in finished if State.FAILED in state_of(run))
    let_in = endings([run for run in finished if not run.job.refused])
    assert not let_in["closed", "failed"], "a Host has closed only after it heard Bye"
    assert sum(run.crossed > 0 for run in finished) > 20
    assert sum(run.late for run in finished) > 100
    used = set().union(*(run.rows for run in finished))
    live = [state for state in State if TABLE[state]]
    assert {(state, role, Abort) for state in live for role in Role} <= used


@pytest.mark.slow
@pytest.mark.parametrize("aborts", [False, True])
def test_runs_with_losses_all_end(aborts: bool) -> None:
    finished = runs(range(30_000, 31_000), aborts=aborts, losses=True)
    ends = endings([run for run in finished if not run.job.refused])
    assert ends["failed", "failed"] > 100
    assert ends["closed", "closed"] > 10
    assert not ends["closed", "failed"]


def state_of(run: Run) -> set[State]:
    return {session.state for session in run.sessions.values()}
