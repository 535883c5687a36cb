"""A message like the last one is checked by one comparison, and refused for the same reasons."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from heterofed.protocol.messages import Gradients
from heterofed.protocol.states import State
from tests.protocol.link import Line, Link, features, gradients, link_in, tensor


def in_training() -> Link:
    """A link on which a batch was trained, and the next one is under way."""
    link = link_in(State.TRAIN)
    link.say(features(0), gradients(0, tensor(2, 3), last=True), features(1))
    return link


def refused_by_every_rule(link: Link, line: Line) -> str:
    """Why a line is refused, also by sessions that remember nothing of the last batch."""
    why = link.refuses(line)
    for session in link.ends.values():
        session.like_before = session.answered_before = ()
    assert link.refuses(line) == why
    return why


OTHER_FEATURES: list[tuple[dict[str, Any], str]] = [
    ({"round": 2}, "not this round"),
    ({"batch": 1}, "not the next batch"),
    ({"batch": 3}, "not the next batch"),
    ({"rows": 3}, "tensors of other row counts than it says"),
    ({"layout": "tensor"}, "other tensors than in earlier batches"),
    ({"tensors": ()}, "shapes that do not make its size"),
    ({"tensors": (tensor(3, 2),)}, "tensors of other row counts than it says"),
    ({"tensors": (tensor(2, 3, name="x"),)}, "other tensors than in earlier batches"),
    ({"tensors": (tensor(2, 3, dtype="int32"),)}, "other tensors than in earlier batches"),
    ({"tensors": (tensor(2, 3, dtype="float64"),)}, "shapes that do not make its size"),
]


@pytest.mark.parametrize(("other", "why"), OTHER_FEATURES, ids=str)
def test_features_that_differ_from_the_last_ones(other: dict[str, Any], why: str) -> None:
    speaker, message, size = features(2)
    link = in_training()
    assert refused_by_every_rule(link, Line(speaker, replace(message, **other), size)).endswith(why)
    link.say(features(2))


def test_features_of_another_size_or_beyond_their_credit() -> None:
    speaker, message, size = features(2)
    link = in_training()
    assert "make its size" in refused_by_every_rule(link, Line(speaker, message, size + 1))
    link.say(features(2))
    assert "beyond its credit" in refused_by_every_rule(link, features(3))


OTHER_GRADIENTS: list[tuple[dict[str, Any], str]] = [
    ({"round": 2}, "not this round"),
    ({"batch": 0}, "not the batch that is next"),
    ({"batch": 2}, "not the batch that is next"),
    ({"tensors": ()}, "shapes that do not make its size"),
    ({"tensors": (tensor(3, 2),)}, "not tensors of that batch"),
    ({"tensors": (tensor(2, 3, name="x"),)}, "not tensors of that batch"),
    ({"tensors": (tensor(2, 3, dtype="int32"),)}, "not tensors of that batch"),
]


@pytest.mark.parametrize(("other", "why"), OTHER_GRADIENTS, ids=str)
def test_gradients_that_differ_from_the_last_ones(other: dict[str, Any], why: str) -> None:
    speaker, message, size = gradients(1, tensor(2, 3))
    assert isinstance(message, Gradients)
    link = in_training()
    assert refused_by_every_rule(link, Line(speaker, replace(message, **other), size)).endswith(why)
    link.say(gradients(1, tensor(2, 3), last=True))


def test_gradients_without_a_batch_that_waits_for_them() -> None:
    link = in_training()
    assert "its size" in refused_by_every_rule(link, Line(*gradients(1, tensor(2, 3))[:2], 1))
    link.say(gradients(1, tensor(2, 3)), gradients(1, tensor(2, 3), last=True))
    assert "no batch waits" in refused_by_every_rule(link, gradients(2, tensor(2, 3)))


def test_gradients_like_the_last_ones_for_a_batch_of_another_form() -> None:
    link = link_in(State.TRAIN)
    link.say(features(0), gradients(0, tensor(2, 3), last=True), features(1, tensor(4, 3), rows=4))
    assert "not tensors of that batch" in refused_by_every_rule(link, gradients(1, tensor(2, 3)))
