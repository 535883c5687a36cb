"""Finds the state that a user's objects carry from batch to batch.

The walk looks into the scheduler, its classes and the globals that their hooks name. It also looks
into containers, closures and objects of the user's own classes, but not into the internals of
libraries.
"""

from __future__ import annotations

import functools
import itertools
import site
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.compute.wrappers import inner_of
from heterofed.runs.frozen_values import FUNCTIONS, GENERATORS, MAPPINGS, SCALARS, SEQUENCES
from heterofed.runs.reserved import RESERVED

Step = tuple[Literal["attr", "key", "cell"], Any]
Kind = Literal["value", "generator", "state", "learning", "iterator"]

OF_A_MODULE = frozenset(vars(nn.Module()))
OF_AN_OPTIMIZER = frozenset({"state", "param_groups", "defaults", "step", "zero_grad"})
GLOBALS = "globals"
MANY = 4096
"""The number of values in a container above which a walk looks only at some of them."""
MOST = 200_000
"""The largest number of objects that a walk looks at."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a value.

    Attributes:
        root: the name of the object from which the walk began.
        steps: the steps from there to the value.
    """

    root: str
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        """Return the place as a user would write it, or nearly so."""
        root, steps = self.root, self.steps
        if root == GLOBALS and steps:
            root, steps = f"the global {steps[0][1]}", steps[1:]
        forms = {"attr": ".{}", "key": "[{!r}]", "cell": "'s closure"}
        return root + "".join(forms[kind].format(key) for kind, key in steps)

    def then(self, kind: Literal["attr", "key", "cell"], key: Any) -> Place:
        return Place(self.root, (*self.steps, (kind, key)))


@dataclass(frozen=True, slots=True)
class Found:
    """A value that may change from batch to batch.

    Attributes:
        place: the place of the value.
        value: the value itself.
        kind: "value" for plain values, tensors and arrays; "generator" for random numbers; "state"
            for an object with a `state_dict`; "learning" for a module, of which it is kept which
            parameters learn and their pending gradients; "iterator" for one whose position is
            unknown.
    """

    place: Place
    kind: Kind
    value: Any


def walk(roots: Mapping[str, Any], known: Iterable[nn.Module | Optimizer]) -> list[Found]:
    """Return all values that the roots hold and that may change from batch to batch.

    Args:
        roots: the objects from which the walk begins, by name.
        known: the models and optimizers whose `state_dict` is kept anyway; the walk looks only for
            state that those leave out.
    """
    known = list(known)
    kept: set[int] = {id(t) for m in known if isinstance(m, nn.Module) for t in _tensors(m)}
    owned = set(kept)
    for _ in range(2):  # The tensors of modules have to be known before the walk meets optimizers.
        walker = _Walk(known, set(kept), owned)
        for name, root in roots.items():
            walker.root(name, root)
    return walker.found


class _Walk:
    def __init__(self, known: list[nn.Module | Optimizer], kept: set[int], owned: set[int]) -> None:
        self.found: list[Found] = []
        self._known = {id(each) for each in known}
        self._kept = kept
        self._tensors = owned
        self._seen: set[int] = set()

    def root(self, name: str, root: Any) -> None:
        place = Place(name)
        if isinstance(root, nn.Module | Optimizer):
            self.visit(place, root)
        elif isinstance(root, Globals):
            for key, value in root.items():
                self.visit(place.then("key", key), value)
        else:
            self._seen.add(id(root))
            for key, value in list(vars(root).items()):
                of_class = isinstance(root, type) and (key.startswith("__") or callable(value))
                # A hook that was replaced on the object is code, like a method.
                is_hook = isinstance(value, FUNCTIONS) and hasattr(type(root), key)
                if not (of_class or is_hook or key == RESERVED):
                    self.visit(place.then("attr", key), value)

    def visit(self, place: Place, value: Any) -> None:
        kind = type(value)
        if kind in SCALARS or kind in (bytes, complex) or isinstance(value, np.generic):
            self._add(place, "value", value)
            return
        if id(value) in self._seen or id(value) in self._tensors or len(self._seen) > MOST:
            return
        self._seen.add(id(value))
        if isinstance(value, GENERATORS):
            self._add(place, "generator", value)
        elif isinstance(value, nn.Module):
            self._module(place, value)
        elif isinstance(value, Optimizer):
            self._optimizer(place, value)
        elif self._is_plain(value):
            self._add(place, "value", value)
        elif isinstance(value, FUNCTIONS):
            self._function(place, value)
        elif has_state(value):
            self._add(place, "state", value)
            self._attributes(place, value, only_stateful=True)
        elif isinstance(value, list | tuple | deque):
            for number, each in enumerate(value):
                self.visit(place.then("key", number), each)
        elif isinstance(value, dict):
            for key, each in list(value.items()):
                if type(key) in SCALARS:
                    self.visit(place.then("key", key), each)
        elif is_iterator(value):
            self._add(place, "iterator", value)
        elif is_users(kind):
            self._attributes(place, value)

    def _add(self, place: Place, kind: Kind, value: Any) -> None:
        self.found.append(Found(place, kind, value))

    def _module(self, place: Place, module: nn.Module) -> None:
        tensors = {id(each) for each in _tensors(module)}
        if id(module) not in self._known and not tensors <= self._kept:
            self._add(place, "state", module)
        self._kept |= tensors
        self._tensors |= tensors
        if any(True for _ in module.parameters()):
            self._add(place, "learning", module)
        for path, sub in module.named_modules():
            self._seen.add(id(sub))
            if inner_of(sub) is not None:
                continue
            at = functools.reduce(lambda at, name: at.then("attr", name), path.split("."), place)
            at = at if path else place
            for name, value in list(vars(sub).items()):
                if name not in OF_A_MODULE:
                    self.visit(at.then("attr", name), value)
            for name in sub._non_persistent_buffers_set:
                value = sub._buffers.get(name)
                if value is not None:
                    self._add(at.then("attr", name), "value", value)

    def _optimizer(self, place: Place, optimizer: Optimizer) -> None:
        if id(optimizer) not in self._known:
            self._add(place, "state", optimizer)
        groups = place.then("attr", "param_groups")
        for number, group in enumerate(optimizer.param_groups):
            params = groups.then("key", number).then("key", "params")
            for index, param in enumerate(group["params"]):
                self.visit(params.then("key", index), param)
        for name, value in list(vars(optimizer).items()):
            if name not in OF_AN_OPTIMIZER and not name.startswith("_optimizer_"):
                self.visit(place.then("attr", name), value)

    def _function(self, place: Place, function: Any) -> None:
        """Visit the values of a closure, such as a counter of a nested function."""
        if not isinstance(function, types.FunctionType) or not _is_of_users(function.__module__):
            return
        for number, cell in enumerate(function.__closure__ or ()):
            with suppress(ValueError):  # an empty cell
                self.visit(place.then("cell", number), cell.cell_contents)

    def _attributes(self, place: Place, value: Any, *, only_stateful: bool = False) -> None:
        for name, each in attributes_of(value):
            if not only_stateful or isinstance(each, nn.Module | Optimizer) or has_state(each):
                self.visit(place.then("attr", name), each)

    def _is_plain(self, value: Any, depth: int = 0) -> bool:
        """Return whether a value can be kept whole: without modules or tensors that others keep."""
        kind = type(value)
        if kind in SCALARS or kind in (bytes, bytearray, complex) or isinstance(value, np.generic):
            return True
        if isinstance(value, Tensor):
            return id(value) not in self._tensors and not nn.parameter.is_lazy(value)
        if isinstance(value, np.ndarray):
            return bool(value.dtype != object)
        if depth > 50:
            return False
        if kind in MAPPINGS:
            keys = all(type(key) in (*SCALARS, tuple) for key in sampled(value))
            return keys and all(self._is_plain(each, depth + 1) for each in sampled(value.values()))
        if kind in SEQUENCES or kind is deque or hasattr(kind, "_fields"):
            return all(self._is_plain(each, depth + 1) for each in sampled(value))
        return False


def sampled(values: Collection[Any]) -> Iterator[Any]:
    """Yield all of a few values, or a sample of many, which are probably rows of data."""
    return itertools.islice(values, 0, None, 1 if len(values) <= MANY else len(values) >> 8)


def attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object, from its `__dict__` and from the slots of its classes."""
    yield from list(getattr(value, "__dict__", {}).items())
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def has_state(value: object) -> bool:
    """Return whether an object has `state_dict` and `load_state_dict`, like modules and
    schedules.
    """
    kind = type(value)
    root, _, module = kind.__module__.partition(".")
    if root == "heterofed" and not module.startswith("privacy."):  # defences are users' objects
        return False
    return hasattr(kind, "state_dict") and hasattr(kind, "load_state_dict")


def is_iterator(value: object) -> bool:
    """Return whether it is an iterator of Python or of a DataLoader, which hides its position."""
    of = type(value).__module__
    known = of in ("builtins", "itertools", "_collections", "torch.utils.data.dataloader")
    return known and hasattr(type(value), "__next__")


def is_users(kind: type) -> bool:
    """Return whether a class is the user's, or of a library whose objects hold what they learnt."""
    return _is_of_users(kind.__module__)


@functools.cache
def _is_of_users(module: str) -> bool:
    root = module.partition(".")[0]
    if root in ("heterofed", "psi", "builtins"):
        return False
    if root == "sklearn" or module.startswith("torch.utils.data"):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module == "__main__"
    return not str(file).startswith(_LIBRARIES)


_LIBRARIES = tuple(
    {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def roots_of(scheduler: object) -> dict[str, Any]:
    """Return the roots of a walk: the object, its user-defined classes, and globals that they name.

    The names of classes and modules are those in the source files, so a resumed run finds them
    again.
    """
    roots: dict[str, Any] = {"self": scheduler}
    named = Globals()
    for cls in type(scheduler).__mro__:
        if is_users(cls):
            roots[cls.__qualname__] = cls
            for each in vars(cls).values():
                named.add(getattr(each, "__func__", each))
    return roots | {GLOBALS: named}


class Globals:
    """The globals that functions of a user's modules name, which can be read and set by name."""

    def __init__(self) -> None:
        self._where: dict[str, dict[str, Any]] = {}
        self._added: set[int] = set()

    def add(self, function: object) -> None:
        """Add the globals that a function names, and those of the functions that it calls."""
        if not isinstance(function, types.FunctionType) or id(function) in self._added:
            return
        if not _is_of_users(function.__module__):
            return
        self._added.add(id(function))
        where = function.__globals__
        for name in function.__code__.co_names:
            value = where.get(name)
            if isinstance(value, FUNCTIONS):
                self.add(value)
            elif name in where and not isinstance(value, type | types.ModuleType):
                self._where[name] = where

    def items(self) -> Iterator[tuple[str, Any]]:
        """Return the names and values."""
        return ((name, where[name]) for name, where in self._where.items() if name in where)

    def __getitem__(self, name: str) -> Any:
        return self._where[name][name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._where[name][name] = value
