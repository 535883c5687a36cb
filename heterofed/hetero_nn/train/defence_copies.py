"""Keeps the gradient defences of a Host: a copy for each recipient, with what it has learnt.

What a defence remembers decides what is sent next, so it is part of checkpoints. It is found as
other state of users' objects is: by `state_dict`, or else in the attributes of the object.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, TypeAlias

from heterofed.privacy.gradient_defences import EmbeddingAwareDefence, GradientDefence
from heterofed.privacy.raised_defences import raised_label_defence
from heterofed.runs.user_state import Carried

Defence: TypeAlias = GradientDefence | EmbeddingAwareDefence
Key: TypeAlias = tuple[str, int, bool]

REMEDY = (
    "give the gradient_defence with which the run began; one of your own has methods state_dict and"
    " load_state_dict, or keeps tensors and plain values as attributes that __init__ makes"
)


class DefenceCopies:
    """The copies of the defences of one run.

    Args:
        given: the defence that the user has set, if any.
        limit: the highest label AUC of the terms, if they have one; raised defences depend on it.
    """

    def __init__(self, given: Defence | None, limit: float | None) -> None:
        self._given, self._limit = given, limit
        self._copies: dict[Key, Defence] = {}
        self._carried = Carried(self._roots, tuple, covered=False, remedy=REMEDY)

    def of(self, peer: str, raised: int, *, is_binary: bool) -> Defence | None:
        """Return the defence that is used for one recipient, and for it alone.

        Args:
            peer: the recipient.
            raised: how often the defence against it was raised.
            is_binary: whether the batch has no other classes than 0 and 1.
        """
        raises = bool(raised) and self._limit is not None
        if not raises and isinstance(self._given, EmbeddingAwareDefence):
            is_binary = False  # it learns from all batches, whatever classes they have
        key = peer, raised, is_binary
        if key not in self._copies:
            made = copy.deepcopy(self._given)
            if raises and self._limit is not None:
                made = raised_label_defence(raised, self._limit, is_binary=is_binary)
            if made is None:
                return None
            self._copies[key] = made
        return self._copies[key]

    def state(self) -> dict[str, Any]:
        """Return what the defences have learnt, as plain values and tensors."""
        return {
            "keys": [list(key) for key in self._copies],
            "learnt": self._carried.keep(gradients=True),
        }

    def put_back(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state` has returned.

        Raises:
            ResumeError: the user's defence is another one now, or cannot be restored.
        """
        for peer, raised, is_binary in state.get("keys", ()):
            self.of(peer, raised, is_binary=is_binary)
        self._carried.put_back(state.get("learnt", ()))

    def _roots(self) -> dict[str, Any]:
        named = {_name(key): each for key, each in self._copies.items()}
        return {"gradient_defence": SimpleNamespace(**named)}


def _name(key: Key) -> str:
    peer, raised, is_binary = key
    return f"{peer}, raised {raised}{', two classes' if is_binary else ''}"
