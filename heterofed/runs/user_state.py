"""Keeps state in checkpoints that a user's objects carry beside models and optimizers.

Examples are a learnt parameter on `self`, a schedule, a moving average in a dict, a counter, and
gradients that wait for the next step. `walk` finds such state; this module keeps and restores it.
Constants are not kept: a value that is not a tensor and has not changed since the run began is the
same when the script makes it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.compute.sharded_tensors import placed
from heterofed.compute.wrappers import plain_names, plain_state
from heterofed.errors import ConfigError, ResumeError
from heterofed.runs import checkpoint_format as snapshots
from heterofed.runs.frozen_values import CannotFreezeError, freeze, thaw
from heterofed.runs.object_walk import Found, Place, walk
from heterofed.runs.value_marks import arrays_in, is_large, mark_of, size_of

logger = logging.getLogger("heterofed")

MOST_ARRAYS = 256
"""The most arrays of a container that is kept although it did not change. More are probably rows of
data.
"""
MOST_NEW = 1 << 28
"""The most bytes of values that appeared after the run began and are kept. More are probably
data.
"""

REMEDY = (
    "return its state from extra_state and take it up in load_extra_state (or hold it in a variable"
    " of the hook, where it does not live longer than a round)"
)

Roots = Callable[[], Mapping[str, Any]]
Known = Callable[[], Iterable[nn.Module | Optimizer]]


@dataclass(slots=True)
class Carried:
    """The state that one scheduler carries through one run.

    Args:
        roots: returns the objects from which the search begins, by name.
        known: returns the models and optimizers that a checkpoint holds anyway.
        covered: whether the user keeps state too (`extra_state`), so that state which cannot be
            kept here is left to the user.
        remedy: what a user does about state that cannot be kept.
    """

    roots: Roots
    known: Known
    covered: bool
    remedy: str = REMEDY
    _marks: dict[Place, object] = field(default_factory=dict)
    _values: dict[Place, Any] = field(default_factory=dict)
    _iterators: dict[Place, Any] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def begin(self) -> None:
        """Record all values before the first step.

        Raises:
            ConfigError: a value can neither be kept nor recognised as a constant; the message names
            it.
        """
        self._marks.clear()
        self._values.clear()
        for found in self._walk():
            self._begin_with(found)

    def _begin_with(self, found: Found) -> None:
        if found.kind == "value":
            self._marks[found.place] = mark_of(found.value)
            if not is_large(found.value):
                self._values[found.place] = freeze(found.value)
        elif found.kind in ("iterator", "state") and not self.covered:
            try:
                _frozen(found)
            except CannotFreezeError as error:
                raise ConfigError(
                    f"a run that is interrupted could not go on: no checkpoint can keep"
                    f" {found.place} ({error}); {self.remedy}"
                ) from None

    def keep(self, *, gradients: bool) -> list[list[Any]]:
        """Return the state that a checkpoint has to hold, as plain values and tensors.

        Args:
            gradients: whether gradients may wait for a later step.
        """
        kept, room = [], MOST_NEW
        iterators = {}
        for found in self._walk():
            if found.kind == "iterator":
                iterators[found.place] = found.value
            if found.kind == "value" and not self._changed(found):
                continue
            if found.kind == "value" and found.place not in self._marks:
                room -= size_of(found.value)
                if room < 0:
                    self._tell(str(found.place), "it is too large")
                    continue
            try:
                frozen = _frozen(found, gradients=gradients)
            except CannotFreezeError as error:
                self._tell(str(found.place), str(error))
                frozen = None
            kept.append(
                [found.place.root, [list(s) for s in found.place.steps], found.kind, frozen]
            )
        kept = [each for each in kept if not self._is_over(each, iterators)]
        self._iterators = iterators
        return kept

    def _is_over(self, entry: list[Any], iterators: Mapping[Place, int]) -> bool:
        """Return whether an entry is an iterator that the hooks make anew in each round."""
        place = _place_of(entry)
        return (
            entry[2] == "iterator"
            and place in self._iterators
            and self._iterators[place] is not iterators[place]
        )

    def put_back(self, entries: Iterable[list[Any]]) -> None:
        """Restore the state of which `keep` returned these entries.

        Raises:
            ResumeError: a value could not be kept or does not exist any more; the message names it.
        """
        entries = list(entries)
        self._go_back({_place_of(each) for each in entries})
        for each in entries:
            self._put_back(_place_of(each), each[2], each[3])

    def _put_back(self, place: Place, kind: str, frozen: Any) -> None:
        try:
            if frozen is None and kind != "value":
                raise LookupError
            holder, now = look(self.roots(), place)
            if kind in ("value", "generator"):
                _set(holder, place, now, thaw(frozen, now))
            elif kind == "learning":
                _teach(now, frozen)
            elif isinstance(now, nn.Module | Optimizer):
                snapshots.put_back(str(place), now, thaw(frozen))
            else:
                now.load_state_dict(thaw(frozen))
        except ResumeError:
            raise
        except Exception as error:  # whatever the user's objects raise
            if self.covered:
                return
            raise ResumeError(
                f"the run cannot go on as it was: the state of {place} "
                + ("was not kept" if frozen is None else "finds no place to go")
                + f" ({type(error).__name__}); make it in __init__ or in a make_ hook, or"
                f" {self.remedy}; or start all parties with"
                ' resume="never"'
            ) from None

    def _go_back(self, kept: set[Place]) -> None:
        """Undo changes in this process since the run began that are not in the checkpoint."""
        for found in self._walk():
            if found.kind != "value" or found.place in kept:
                continue
            if found.place in self._marks:
                if mark_of(found.value) != self._marks[found.place]:
                    self._begin_again(found.place)
            elif found.place not in self._marks and found.place.root == "self":
                holder, _ = look(self.roots(), found.place)
                if holder is self.roots()["self"]:
                    delattr(holder, found.place.steps[-1][1])

    def _begin_again(self, place: Place) -> None:
        if place in self._values:
            holder, now = look(self.roots(), place)
            _set(holder, place, now, thaw(self._values[place], now))
        elif not self.covered:
            raise ResumeError(
                f"the run cannot go back to before {place} changed, which is too large to be kept"
                f" twice; {self.remedy}, or start all parties again"
            )

    def _walk(self) -> list[Found]:
        return walk(self.roots(), self.known())

    def _changed(self, found: Found) -> bool:
        """Return whether a value has to be kept: it changed, or it has tensors, which may be
        random.
        """
        if found.place not in self._marks:
            return True
        if not is_large(found.value) and 0 < sum(1 for _ in arrays_in(found.value)) <= MOST_ARRAYS:
            return True
        return mark_of(found.value) != self._marks[found.place]

    def _tell(self, what: str, why: str) -> None:
        if what not in self._told and not self.covered:
            self._told.add(what)
            logger.warning(
                "no checkpoint keeps the state of %s (%s): %s, else a run that is interrupted does"
                " not go on as it was",
                what,
                why,
                self.remedy,
            )


def _place_of(entry: list[Any]) -> Place:
    return Place(entry[0], tuple((step[0], step[1]) for step in entry[1]))


def _frozen(found: Found, *, gradients: bool = True) -> Any:
    value = found.value
    if found.kind == "iterator":
        raise CannotFreezeError(f"a {type(value).__name__} does not tell where it stands")
    if found.kind == "learning":
        return _learning(value, gradients)
    if isinstance(value, nn.Module):
        return freeze({k: v for k, v in plain_state(value).items() if not _is_lazy(v)})
    if found.kind == "state":
        try:
            state = value.state_dict()
        except Exception as error:  # whatever the user's object raises
            raise CannotFreezeError(f"its state_dict raised {type(error).__name__}") from None
        return freeze(state, drop_functions=True)
    return freeze(value)


def _is_lazy(value: object) -> bool:
    return isinstance(value, Tensor) and bool(nn.parameter.is_lazy(value))


def _learning(module: nn.Module, gradients: bool) -> Any:
    names = plain_names(module, [name for name, _ in module.named_parameters()])
    parameters = {names[k]: v for k, v in module.named_parameters() if not _is_lazy(v)}
    learns = {name: each.requires_grad for name, each in parameters.items()}
    pending = {
        name: each.grad for name, each in parameters.items() if gradients and each.grad is not None
    }
    return freeze([learns, pending])


def _teach(module: nn.Module, frozen: Any) -> None:
    learns, pending = thaw(frozen)
    names = plain_names(module, [name for name, _ in module.named_parameters()])
    for key, parameter in module.named_parameters():
        name = names[key]
        if name in learns:
            parameter.requires_grad_(learns[name])
            gradient = pending.get(name)
            parameter.grad = (
                None if gradient is None else placed(gradient.to(parameter.device), parameter)
            )


def look(roots: Mapping[str, Any], place: Place) -> tuple[Any, Any]:
    """Return the holder of a place and the value there now; None if there is no value.

    Raises:
        AttributeError, LookupError, TypeError: the holder does not exist either.
    """
    holder = value = roots[place.root]
    for number, (kind, key) in enumerate(place.steps):
        holder, last = value, number == len(place.steps) - 1
        try:
            if kind == "attr":
                value = getattr(holder, key)
            elif kind == "cell":
                value = holder.__closure__[key].cell_contents
            else:
                value = holder[key]
        except (AttributeError, LookupError, TypeError):
            if not last:
                raise
            value = None
    return holder, value


def _set(holder: Any, place: Place, now: Any, value: Any) -> None:
    if value is now:
        return
    kind, key = place.steps[-1]
    if kind == "attr":
        setattr(holder, key, value)
    elif kind == "cell":
        holder.__closure__[key].cell_contents = value
    else:
        holder[key] = value
