"""What a party that lies can do in a horizontal task: end it, under its own name."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from heterofed import errors as e
from heterofed.homo_nn.sampling import drawn
from heterofed.homo_nn.scores import Scored, mean_of
from heterofed.homo_nn.weights import layout_of, packed
from heterofed.privacy.mask_keys import MaskKey
from heterofed.protocol import messages as m
from heterofed.protocol.plan import Averaging, Plan
from heterofed.rendezvous.agreement import task_digest
from tests.adversarial.peers import TASK, LyingHost, Victim, connected, place
from tests.homo_nn.tiny import Party, host, model

pytestmark = pytest.mark.usefixtures("home")

LAYOUT = layout_of(model())
WEIGHTS = {
    name: torch.zeros(each.shape, dtype=each.dtype) for name, each in model().state_dict().items()
}


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Load what torch loads at the first step, so that a liar need not wait for it."""
    torch.optim.SGD(model().parameters(), lr=0.1).step()


def hello(party: str) -> m.Hello:
    said = m.Hello((1,), "average", task_digest(TASK), party, secrets.token_bytes(16), False)
    terms = place(party).terms
    return msgspec.structs.replace(said, terms=terms, mask_key=MaskKey().public)


class Liar:
    """A Collaborator that is honest up to its first update."""

    def __init__(self, party: str = "liar", layout: Any = LAYOUT) -> None:
        self.link = connected(party)
        self.link.say(hello(party))
        self.plan = self.link.hear(m.Welcome)[0].plan
        asked, _ = self.link.hear(m.DescribeModel)
        self.link.say(m.ModelLayout(layout), packed(WEIGHTS) if asked.weights else [])

    def to_update(self) -> Liar:
        self.link.hear(m.InitialWeights)
        self.link.say(m.WeightsHeld())
        self.link.hear(m.BeginUpdate)
        return self

    def send(self, number: int = 1, rows: int = 4, **weights: torch.Tensor) -> None:
        self.link.say(m.Update(number, rows), packed({**WEIGHTS, **weights}))

    def to_test(self) -> m.Scores:
        """Send an update, and return the scores that are due."""
        self.send()
        self.link.hear(m.Average)
        self.link.hear(m.BeginScores)
        return m.Scores(1, 0)

    def say_rows(self, rows: int) -> None:
        self.link.say(msgspec.structs.replace(self.to_test(), rows=rows))

    def one_round(self) -> None:
        self.link.say(self.to_test())
        self.link.hear(m.RoundEnd)
        self.link.say(m.CheckpointHeld(1))
        self.link.hear(m.BeginUpdate)


def named(
    folder: Path, lie: Callable[[Liar], None], kind: type[e.TaskFailed], **settings: Any
) -> str:
    """The text of the Host's error, which the other party hears too."""
    first = Victim(host(folder, ["honest", "liar"], **settings))  # type: ignore[arg-type]
    honest = Victim(Party(folder, "honest", 1))
    liar = Liar().to_update()
    lie(liar)
    outcome, told = first.outcome(), honest.outcome()
    liar.link.close()
    assert isinstance(outcome, kind), repr(outcome)
    assert isinstance(told, kind), repr(told)
    assert outcome.party == told.party == "liar"
    return str(outcome)


F64 = torch.float64
NAN, INFINITY = torch.full((1, 3), torch.nan, dtype=F64), torch.full((1,), torch.inf, dtype=F64)
SHAPES, LAWS = "not the tensors of its layout", e.RemoteProtocolError

Lie = tuple[str, Callable[[Any], object], type[e.TaskFailed], str]


def in_turn(first: list[Lie], swept: list[Lie]) -> list[Any]:
    """The first ones always; those that the tests of the protocol cover, too, in the sweep."""
    marked = [(each, pytest.mark.slow) for each in first]
    marked += [(each, pytest.mark.long) for each in swept]
    return [pytest.param(*each[1:], id=each[0], marks=mark) for each, mark in marked]


LIES = in_turn(
    [
        ("other shapes", lambda x: x.send(weight=torch.zeros(2, 3, dtype=F64)), LAWS, SHAPES),
        ("NaN", lambda x: x.send(weight=NAN), e.NonFiniteError, "'weight' at liar holds NaN"),
        ("huge", lambda x: x.link.say(m.Update(1, 4), [bytes(1 << 24)]), LAWS, SHAPES),
        ("rows", lambda x: x.send(rows=2**40), LAWS, "max_rows is 10000000"),
        ("rows of a test", lambda x: x.say_rows(2**40), LAWS, "max_rows is 10000000"),
        ("replayed", lambda x: (x.one_round(), x.send(1)), LAWS, "not this round"),
    ],
    [
        ("infinity", lambda x: x.send(bias=INFINITY), e.NonFiniteError, "'bias' at liar"),
        ("nothing", lambda x: x.link.say(m.Update(1, 4)), LAWS, SHAPES),
        ("another round", lambda x: x.send(2), LAWS, "not this round"),
        ("twice", lambda x: (x.send(), x.send()), LAWS, "Update"),
        ("a test", lambda x: x.link.say(m.Scores(1, 4)), LAWS, "out of turn"),
        ("features", lambda x: x.link.say(m.EndOfFeatures(1, 0)), LAWS, "out of turn"),
    ],
)


@pytest.mark.parametrize("values", [(math.inf, -math.inf), (math.nan, 1.0), (1.7e308, 1.7e308)])
@pytest.mark.parametrize("rows", [(0, 0), (1, 1), (2**40, 1)])
def test_scores_of_any_kind_have_a_mean(values: tuple[float, float], rows: tuple[int, int]) -> None:
    scored = [Scored(n, {"loss": each, "auc": 0.5}) for n, each in zip(rows, values, strict=True)]
    mean = mean_of(scored)
    assert mean["auc"] == 0.5
    assert not math.isfinite(mean["loss"])


@pytest.mark.parametrize(("lie", "kind", "why"), LIES)
def test_a_lie_names_the_liar(
    lie: Callable[[Liar], None], kind: type[e.TaskFailed], why: str, tmp_path: Path
) -> None:
    assert why in named(tmp_path, lie, kind)


@pytest.mark.slow
def test_a_large_update_is_refused_where_there_is_a_limit(tmp_path: Path) -> None:
    why = named(
        tmp_path,
        lambda liar: liar.send(weight=torch.full((1, 3), 1e6, dtype=torch.float64)),
        e.RemoteProtocolError,
        max_update_norm=100,
    )
    assert "norm 1.73205e+06, and max_update_norm is 100" in why


@pytest.mark.slow
def test_a_masked_update_of_another_size_names_the_liar(tmp_path: Path) -> None:
    why = named(
        tmp_path,
        lambda liar: liar.link.say(m.Update(1, 4), [bytes(24)]),
        e.RemoteProtocolError,
        secure_aggregation=True,
    )
    assert "not the tensors of its layout" in why


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "why"),
    [
        (LAYOUT[:1], "2 tensors and 1"),
        (tuple(reversed(LAYOUT)), "tensor 0: 'weight' [1, 3] float64 and 'bias' [1] float64"),
        ((msgspec.structs.replace(LAYOUT[0], shape=(3, 1)), LAYOUT[1]), "[1, 3] float64"),
        ((msgspec.structs.replace(LAYOUT[0], learns=False), LAYOUT[1]), "of which one learns"),
    ],
)
def test_another_model_is_named(layout: Any, why: str, tmp_path: Path) -> None:
    first = Victim(host(tmp_path, ["honest", "liar"]))  # type: ignore[arg-type]
    honest = Victim(Party(tmp_path, "honest", 1))
    liar = Liar(layout=layout)
    outcome = first.outcome()
    honest.outcome()
    liar.link.close()
    assert isinstance(outcome, e.FeatureError), repr(outcome)
    assert outcome.party == "liar"
    assert "the models of honest and liar differ" in str(outcome)
    assert why in str(outcome)


@pytest.mark.slow
def test_nobody_speaks_under_the_name_of_another_party(tmp_path: Path) -> None:
    first = Victim(host(tmp_path, ["honest", "other"], 2))  # type: ignore[arg-type]
    honest = Victim(Party(tmp_path, "honest", 1))
    liar = connected("honest")
    other: Victim | None = None
    try:
        liar.say(hello("honest"))
        other = Victim(Party(tmp_path, "other", 2))
        outcomes = [honest.outcome()]  # it is turned away at once if it came second
    finally:
        liar.close()
    outcomes += [each.outcome() for each in (first, other)]
    ended = [each for each in outcomes if isinstance(each, BaseException)]
    # Whichever came first is the party; the other one of that name is turned away.
    assert all(isinstance(each, e.DuplicatePartyError | e.PeerLostError) for each in ended), ended


class LyingAverager(LyingHost):
    """A Host that is honest up to the first round."""

    def to_round(self, begins: bool = True) -> LyingAverager:
        self.welcome()
        self.link.say(m.DescribeModel(weights=False))
        self.link.hear(m.ModelLayout)
        self.link.say(m.InitialWeights(), packed(WEIGHTS))
        self.link.hear(m.WeightsHeld)
        if begins:
            self.link.say(m.BeginUpdate(1))
            self.link.hear(m.Update)
        return self


def say_average(liar: LyingAverager, number: int = 1, **weights: torch.Tensor) -> object:
    liar.link.say(m.Average(number), packed({**WEIGHTS, **weights}))
    return liar


HOST_LIES = in_turn(
    [
        ("NaN", lambda x: say_average(x, weight=NAN), e.NonFiniteError, "'weight' at head"),
        (
            "replayed",
            lambda x: (say_average(x), x.link.say(m.BeginUpdate(1))),
            LAWS,
            "not the next round",
        ),
    ],
    [
        (
            "other shapes",
            lambda x: say_average(x, bias=NAN),
            LAWS,
            "not the weights of that layout",
        ),
        ("another round", lambda x: say_average(x, 2), LAWS, "not this round"),
        ("no average", lambda x: x.link.say(m.RoundEnd(1, False, False)), LAWS, "out of turn"),
        (
            "features",
            lambda x: (say_average(x), x.link.say(m.BeginTest(1))),
            LAWS,
            "sends no features",
        ),
    ],
)


@pytest.mark.parametrize(("lie", "kind", "why"), HOST_LIES)
def test_a_lying_host_is_named(
    lie: Any, kind: type[e.TaskFailed], why: str, tmp_path: Path
) -> None:
    victim = Victim(Party(tmp_path, "bob", 1))
    liar = LyingAverager("head", averaging=Averaging()).to_round()
    lie(liar)
    outcome = victim.outcome()
    liar.close()
    assert isinstance(outcome, kind), repr(outcome)
    assert outcome.party == "head"
    assert why in str(outcome)


@pytest.mark.slow
def test_a_host_cannot_choose_whom_it_adds_up(tmp_path: Path) -> None:
    for begins, fraction, why in (
        (False, 1.0, "without this party"),
        (True, 0.5, "others were drawn"),
    ):
        victim = Victim(Party(tmp_path, "bob", 1))
        plan = {"averaging": Averaging(fraction=fraction), "collaborators": ("bob", "eve")}
        seed = next(each for each in range(99) if not _draws_bob(each)) if begins else 0
        liar = LyingAverager("head", seed=seed, **plan).to_round(begins=False)
        if begins:
            liar.link.say(m.BeginUpdate(1))
        else:
            say_average(liar)
        outcome = victim.outcome()
        liar.close()
        assert isinstance(outcome, e.RemoteProtocolError), repr(outcome)
        assert why in str(outcome)


def _draws_bob(seed: int) -> bool:
    plan = Plan(
        host="head", collaborators=("bob", "eve"), seed=seed, averaging=Averaging(fraction=0.5)
    )
    return "bob" in drawn(plan, 1)


@pytest.mark.slow
def test_a_party_can_insist_on_masks(tmp_path: Path) -> None:
    victim = Victim(Party(tmp_path, "bob", 1, needs_secure_aggregation=True))
    liar = LyingAverager("head", averaging=Averaging()).welcome()
    outcome = victim.outcome()
    liar.close()
    assert isinstance(outcome, e.ConfigError)
    assert "secure_aggregation=True" in str(outcome)
