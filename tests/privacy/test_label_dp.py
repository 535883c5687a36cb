"""Randomised response: how often labels turn, to what, and by coins that stay the same."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from heterofed.errors import ConfigError
from heterofed.privacy.label_dp import RandomisedResponse

SECRET = bytes(range(32))
IDS = [f"id-{number}" for number in range(6000)]


@cache
def turned(classes: int, epsilon: float) -> Tensor:
    """By how much the label of each of many ids is turned."""
    response = RandomisedResponse(epsilon, classes, secret=SECRET)
    return response(torch.zeros(len(IDS), dtype=torch.int64), IDS)


def test_coins_are_those_of_other_versions() -> None:
    """The secret outlives an upgrade; other coins of it would answer a second time."""
    response = RandomisedResponse(0.5, 10, secret=SECRET)
    answers = response(torch.arange(10), [*IDS[:8], "é", "\ud800"])
    assert answers.tolist() == [0, 6, 3, 8, 3, 4, 6, 0, 3, 8]
    assert (
        response.coins.hex() == "6a3a41db525bf622c12384885f0e2afd83dc3cb39470c016a53dfd4db8691f7a"
    )


@pytest.mark.parametrize(("epsilon", "classes"), [(0.5, 2), (2.0, 2), (1.0, 4), (3.0, 10)])
def test_labels_stay_as_often_as_warner_says_and_else_go_anywhere(
    epsilon: float, classes: int
) -> None:
    share = turned(classes, epsilon).bincount(minlength=classes).double() / len(IDS)
    keeping = math.exp(epsilon) / (math.exp(epsilon) + classes - 1)
    response = RandomisedResponse(epsilon, classes)
    assert response.keeping == pytest.approx(keeping)
    assert share[0].item() == pytest.approx(keeping, abs=0.03)
    others = (1 - keeping) / (classes - 1)
    assert share[1:].tolist() == pytest.approx([others] * (classes - 1), abs=0.03)


def test_the_chance_to_turn_has_digits_where_epsilon_is_large() -> None:
    """1 - e^-50 is 1 to a float, so a test at that strength counts none: 20 turns some."""
    assert RandomisedResponse(20.0, 3).keeping == pytest.approx(1 - 2 * math.exp(-20), abs=1e-15)
    assert RandomisedResponse(50.0).keeping <= 1
    assert int((turned(2, 8.0) != 0).sum()) == pytest.approx(len(IDS) * math.exp(-8), abs=6)


@given(
    labels=st.lists(st.integers(0, 4), max_size=8),
    dtype=st.sampled_from([torch.int64, torch.uint8, torch.float32, torch.float16]),
    column=st.booleans(),
)
def test_each_label_is_turned_by_its_own_id_alone(
    labels: list[int], dtype: torch.dtype, column: bool
) -> None:
    given = torch.tensor(labels, dtype=dtype).reshape((-1, 1) if column else (-1,))
    response = RandomisedResponse(0.1, 5, secret=SECRET)
    answers = response(given, IDS[: len(labels)])
    assert (answers.dtype, answers.shape) == (dtype, given.shape)
    steps = turned(5, 0.1)[: len(labels)]
    expected = (torch.tensor(labels, dtype=torch.int64) + steps) % 5
    assert answers.reshape(-1).tolist() == expected.tolist()


@pytest.mark.parametrize(
    "labels",
    [[0, 3], [4, 0], [-1, 0], [0.5, 1], [2.5, 1], [-0.5, 1], [math.nan, 0], [math.inf, 1]],
)
def test_other_numbers_are_no_labels(labels: list[float]) -> None:
    """Neither classes that there are not, nor fractions, nor what is no number."""
    with pytest.raises(ConfigError, match="whole numbers from 0 to 2"):
        RandomisedResponse(1.0, 3)(torch.tensor(labels), ["a", "b"])


def test_there_is_an_id_for_each_label() -> None:
    for ids in ([], ["a"], ["a", "b", "c"]):
        with pytest.raises(ConfigError, match=f"{len(ids)} ids for 2 labels"):
            RandomisedResponse(1.0)(torch.tensor([0, 1]), ids)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": 50.1}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"epsilon": 1.0, "classes": 1}, "classes 1: give 2 or more"),
        ({"epsilon": 1.0, "classes": True}, "classes True"),
        ({"epsilon": 1.0, "classes": 2.0}, "classes 2.0"),
        ({"epsilon": 1.0, "secret": bytes(31)}, "give 32 bytes"),
        ({"epsilon": 1.0, "secret": bytes(33)}, "give 32 bytes"),
        ({"epsilon": 1.0, "secret": b""}, "give 32 bytes"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RandomisedResponse(**settings)  # type: ignore[arg-type]


def test_settings_that_just_can_be() -> None:
    assert RandomisedResponse(50, 2, secret=bytes(32)).epsilon == 50.0
    assert RandomisedResponse(1.0).classes == 2
    assert RandomisedResponse(1.0).label_set == "labels"


# -- whose coins --------------------------------------------------------------------------------


def test_equal_settings_have_equal_coins_and_others_have_others() -> None:
    def coins(secret: bytes = SECRET, label_set: str = "labels", epsilon: float = 1.0,
              classes: int = 2) -> bytes:  # fmt: skip
        response = RandomisedResponse(epsilon, classes, secret=secret, label_set=label_set)
        assert len(response.coins) == 32
        return response.coins

    assert coins() == coins()
    others = [coins(bytes(32)), coins(label_set="churn"), coins(epsilon=2.0), coins(classes=3)]
    assert len({coins(), *others}) == 5


def test_without_a_secret_nobody_has_the_same_coins() -> None:
    assert RandomisedResponse(1.0).coins != RandomisedResponse(1.0).coins
    assert not RandomisedResponse(1.0).given
    assert RandomisedResponse(1.0, secret=SECRET).given


def test_another_secret_changes_the_coins_and_nothing_else() -> None:
    before = RandomisedResponse(0.5, 4, label_set="churn")
    after = before.with_secret(SECRET, spent=1.25)
    assert (after.epsilon, after.classes, after.label_set) == (0.5, 4, "churn")
    assert (after.spent, before.spent) == (1.75, 0.5)
    assert before.with_secret(SECRET).spent == 0.5
    assert after.coins == RandomisedResponse(0.5, 4, secret=SECRET, label_set="churn").coins


@pytest.mark.parametrize("classes", [2, 5])
def test_answers_by_lot_say_nothing_of_labels(classes: int) -> None:
    by_lot = RandomisedResponse(5.0, classes, secret=SECRET).by_lot()
    assert by_lot.classes == classes
    assert by_lot.keeping == pytest.approx(1 / classes, abs=1e-6)
    assert not by_lot.given
