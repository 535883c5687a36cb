"""Checks that features were computed with the current weights, by inspecting their graphs.

A hook that returns a list, or that computes a batch in advance, trains on weights that have changed
meanwhile. Autograd does not report this, or reports only that a tensor was modified in place.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heterofed.errors import FeatureError

_ABOUT_GRAPHS = ("the graph a second time", "modified by an inplace")

MOST_SPANS = 1024
"""The number of calls of a hook that are remembered."""


@dataclass(frozen=True, slots=True)
class _Span:
    """The graph nodes that one call of a hook made, and the versions of the weights at that time.

    Attributes:
        first, end: the range of sequence numbers that autograd gave to the nodes on this thread.
        versions: the versions of the weights at the end of the call.
    """

    first: int
    end: int
    versions: tuple[int, ...]


class Freshness:
    """Watches one feature hook.

    A graph is outdated if a node that reads a weight was made in an earlier call of the hook, and
    that weight has changed since then. So features may be computed in advance if no step comes in
    between (under staleness, or while gradients accumulate), or if they depend on frozen weights
    only. Nodes of other threads are not checked, because each thread has its own sequence numbers.

    Args:
        hook: the name of the hook.
        weights: returns the weights that steps may change.
    """

    def __init__(self, hook: str, weights: Callable[[], Iterable[Tensor]]) -> None:
        self._hook = hook
        self._weights = weights
        self._spans: deque[_Span] = deque(maxlen=MOST_SPANS)
        self._now = 0
        self._read: list[Tensor] = []  # the weights, as they were listed last
        self._places: dict[int, int] = {}  # their indices, by the ids of the objects

    def making(self) -> AbstractContextManager[None]:
        """Enclose each call of the hook, or each step of its generator."""
        return _Making(self)

    def begin(self) -> None:
        """Note that a call begins."""
        self._now = _next_number()

    def end(self) -> None:
        """Note that the call has ended, and the versions of the weights."""
        if not self._read:
            self._list_weights()
        versions = tuple([each._version for each in self._read])
        self._spans.append(_Span(self._now, _next_number(), versions))

    def check(self, features: Mapping[str, Tensor], number: int) -> None:
        """Check the features that the last call returned.

        Args:
            features: the features by name.
            number: the number of the batch.

        Raises:
            FeatureError: the features were computed earlier, with weights that have changed since
                then.
        """
        read = list(_readers(features.values()))
        if any(id(weight) not in self._places for _, weight in read):
            self._list_weights()  # a model may get others; to list them for each batch takes long
        for made, weight in read:
            place = self._places.get(id(weight))
            if made >= self._now or place is None:
                continue
            span = self._span_of(made)
            if span and place < len(span.versions) and span.versions[place] != weight._version:
                raise FeatureError(
                    f"{self._hook} yielded features of batch {number} that were computed before the"
                    " last step, with weights that have changed since: compute each batch when it"
                    " is asked for, in a generator that calls feature_model right before it"
                    " yields; return no list, keep no features for later, and do not compute ahead"
                    " (the Host's max_staleness lets Collaborators run ahead by so many steps)"
                )

    def _list_weights(self) -> None:
        listed = list(self._weights())
        if not all(map(operator.is_, listed, self._read)) or len(listed) < len(self._read):
            self._spans.clear()  # they are about others
        self._read = listed
        self._places = {id(each): place for place, each in enumerate(self._read)}

    def _span_of(self, made: int) -> _Span | None:
        return next((each for each in self._spans if each.first <= made < each.end), None)


class _Making:
    """A call of the hook; a class, because there are several for each batch."""

    __slots__ = ("_fresh",)

    def __init__(self, fresh: Freshness) -> None:
        self._fresh = fresh

    def __enter__(self) -> None:
        self._fresh.begin()

    def __exit__(self, *_error: object) -> None:
        self._fresh.end()


def _next_number() -> int:
    """Return the sequence number of the next graph node; autograd counts them on each thread."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]


def _readers(features: Iterable[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Yield the sequence number of each node that reads a leaf of the graph, and the leaf."""
    waiting: list[Any] = [each.grad_fn for each in features if each.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        for source, _ in node.next_functions:
            if source is None:
                continue
            leaf = getattr(source, "variable", None)
            if leaf is not None:
                yield node._sequence_nr(), leaf
            elif source not in seen:
                seen.add(source)
                waiting.append(source)


def explaining(hook: str) -> AbstractContextManager[None]:
    """Add the name of the hook to torch's errors about graphs.

    torch raises them for a second backward pass, or for weights that have changed, without a hook.
    """
    return _Explaining(hook)


class _Explaining:
    """The block of `explaining`; a class, because each batch enters one."""

    __slots__ = ("_hook",)

    def __init__(self, hook: str) -> None:
        self._hook = hook

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, RuntimeError) and any(each in str(error) for each in _ABOUT_GRAPHS):
            error.add_note(
                f"heterofed: if this is the graph of features, {self._hook} has to call"
                " feature_model once for each batch, when it is asked for it: not once for all,"
                " and not ahead"
            )
