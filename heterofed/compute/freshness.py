"""Checks that features were computed with the current weights, by inspecting their graphs.

A hook that returns a list, or that computes a batch in advance, trains on weights that have changed
meanwhile. Autograd does not report this, or reports only that a tensor was modified in place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heterofed.errors import FeatureError

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
        self._read: list[Tensor] = []  # the weights after the last call

    def making(self) -> AbstractContextManager[None]:
        """Enclose each call of the hook, or each step of its generator."""
        return _Making(self)

    def begin(self) -> None:
        """Note that a call begins."""
        self._now = _next_number()

    def end(self) -> None:
        """Note that the call has ended, and the versions of the weights."""
        self._read = list(self._weights())
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
        places = {id(each): place for place, each in enumerate(self._read)}
        now = self._spans[-1].versions if self._spans else ()
        for made, place in _readers(features.values(), places):
            span = self._span_of(made) if made < self._now else None
            if span and place < len(span.versions) and span.versions[place] != now[place]:
                raise FeatureError(
                    f"{self._hook} yielded features of batch {number} that were computed before the"
                    " last step, with weights that have changed since: compute each batch when it"
                    " is asked for, in a generator that calls feature_model right before it"
                    " yields; return no list, keep no features for later, and do not compute ahead"
                    " (the Host's max_staleness lets Collaborators run ahead by so many steps)"
                )

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


def _readers(features: Iterable[Tensor], places: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the sequence number of each node that reads a weight, and the index of the weight."""
    waiting: list[Any] = [each.grad_fn for each in features if each.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        for source, _ in node.next_functions:
            if source is None:
                continue
            place = places.get(id(getattr(source, "variable", None)))
            if place is not None:
                yield node._sequence_nr(), place
            elif source not in seen:
                seen.add(source)
                waiting.append(source)


@contextmanager
def explaining(hook: str) -> Iterator[None]:
    """Add the name of the hook to torch's errors about graphs.

    torch raises them for a second backward pass, or for weights that have changed, without a hook.
    """
    try:
        yield
    except RuntimeError as error:
        if "the graph a second time" in str(error) or "modified by an inplace" in str(error):
            error.add_note(
                f"heterofed: if this is the graph of features, {hook} has to call feature_model"
                " once for each batch, when it is asked for it: not once for all, and not ahead"
            )
        raise
