"""Whether features were made with the weights of now: graphs are looked at, nothing is computed.

A hook that returns a list, or computes a batch ahead, trains on weights that have changed since;
autograd says nothing of that, or that some tensor was modified in place. Knows torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from heterofed.errors import FeatureError

MOST_SPANS = 1024
"""Calls of a hook that are remembered."""


@dataclass(frozen=True, slots=True)
class _Span:
    """The nodes of graphs that one call of a hook has made, and the weights as they were then.

    Attributes:
        first, end: sequence numbers that autograd gave on this thread.
        versions: of the weights, when the call was over.
    """

    first: int
    end: int
    versions: tuple[int, ...]


class Freshness:
    """Watches one feature hook.

    A graph counts as old where a node of it that reads a weight was made in an earlier call of the
    hook, and that weight has been changed since. So features that a hook makes ahead of no step
    (under staleness, or while gradients accumulate) are as good as any, and so is whatever depends
    on frozen weights alone. Nodes of other threads are not judged: each counts by itself.

    Args:
        hook: names it.
        weights: what steps may change.
    """

    def __init__(self, hook: str, weights: Callable[[], Iterable[Tensor]]) -> None:
        self._hook = hook
        self._weights = weights
        self._spans: deque[_Span] = deque(maxlen=MOST_SPANS)
        self._now = 0

    @contextmanager
    def making(self) -> Iterator[None]:
        """Around each call of the hook, or step of its generator."""
        first = self._now = _number() + 1
        try:
            yield
        finally:
            versions = tuple(each._version for each in self._weights())
            self._spans.append(_Span(first, _number(), versions))

    def check(self, features: Mapping[str, Tensor], number: int) -> None:
        """Look at what the last call has given.

        Args:
            features: by name.
            number: the number of the batch.

        Raises:
            FeatureError: it was made earlier, with weights that have been changed since.
        """
        places = {id(each): place for place, each in enumerate(self._weights())}
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


def _number() -> int:
    """The sequence number of a node that is made here: autograd counts them on each thread."""
    with torch.enable_grad():
        node: Any = (torch.zeros((), requires_grad=True) * 1).grad_fn
    return int(node._sequence_nr())


def _readers(features: Iterable[Tensor], places: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Nodes that read a weight: the sequence number of each, and the place of the weight."""
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
    """Add a note where torch refuses to go backward through a graph a second time, or with weights
    that have changed: what it says names no hook.
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
