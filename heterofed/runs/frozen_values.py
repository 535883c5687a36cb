"""Converts values of user objects to a form that a checkpoint can hold, and restores them.

A frozen value is `[kind, ...]` of tensors and plain values, which torch loads with `weights_only`.
Python scalars are not converted.
"""

from __future__ import annotations

import random
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heterofed.compute.sharded_tensors import placed, whole

SCALARS = (type(None), bool, int, float, str)
SEQUENCES: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
MAPPINGS: dict[type, str] = {
    dict: "dict",
    OrderedDict: "ordered",
    Counter: "counter",
    defaultdict: "defaultdict",
}
FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


class CannotFreezeError(TypeError):
    """A value that is neither a tensor nor plain."""


def freeze(value: Any, *, drop_functions: bool = False) -> Any:
    """Return a copy of a value in a form that a checkpoint can hold.

    Args:
        value: scalars, tensors, arrays, random generators, and containers of them.
        drop_functions: whether to leave out functions in dicts, which learning-rate schedules have.

    Raises:
        CannotFreezeError: the value holds something else, or itself.
    """
    return _Freezer(drop_functions).frozen(value)


class _Freezer:
    def __init__(self, drop_functions: bool) -> None:
        self._drop_functions = drop_functions
        self._within: list[int] = []

    def frozen(self, value: Any) -> Any:
        if type(value) in SCALARS:
            return value
        if id(value) in self._within or len(self._within) > 100:
            raise CannotFreezeError("a container that holds itself")
        self._within.append(id(value))
        try:
            return self._frozen(value)
        finally:
            self._within.pop()

    def _frozen(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, Tensor):
            return _frozen_tensor(value)
        if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            raw = torch.frombuffer(bytearray(value.tobytes() or b"\0"), dtype=torch.uint8)
            return ["array", raw, value.dtype.str, list(value.shape), isinstance(value, np.generic)]
        if kind in SEQUENCES:
            parts = sorted(value, key=repr) if kind in (set, frozenset) else value
            return [SEQUENCES[kind], [self.frozen(each) for each in parts]]
        if kind in MAPPINGS:
            kept = {k: v for k, v in value.items() if not self._drops(v)}
            return [MAPPINGS[kind], [[self.frozen(k), self.frozen(v)] for k, v in kept.items()]]
        if kind is deque:
            return ["deque", [self.frozen(each) for each in value], value.maxlen]
        if kind in (bytes, bytearray, complex):
            return [kind.__name__, [value.real, value.imag] if kind is complex else list(value)]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return ["named", [self.frozen(each) for each in value]]
        if isinstance(value, GENERATORS):
            return ["generator", self.frozen(_where(value))]
        raise CannotFreezeError(kind.__name__)

    def _drops(self, value: object) -> bool:
        return self._drop_functions and isinstance(value, FUNCTIONS)


def _frozen_tensor(value: Tensor) -> Any:
    if nn.parameter.is_lazy(value):
        raise CannotFreezeError("a parameter without a shape")
    grad = value.grad if value.is_leaf else None
    return [
        "tensor",
        whole(value.detach()).clone(),
        None if grad is None else whole(grad.detach()).clone(),
        value.requires_grad and value.is_leaf,
        str(value.device),
    ]


def _where(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return dict(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate()


def thaw(frozen: Any, into: Any = None) -> Any:
    """Return the value; if an object of the same form exists, it is updated in place and returned.

    Args:
        frozen: a value from `freeze`.
        into: the current object, which may also be referenced elsewhere.

    Raises:
        ValueError: `frozen` is not from `freeze`, or there is no object to update.
    """
    if type(frozen) in SCALARS:
        return frozen
    if not isinstance(frozen, list) or not frozen or frozen[0] not in _THAWS:
        raise ValueError("not a frozen value")
    return _THAWS[frozen[0]](frozen, into)


def _tensor(frozen: list[Any], into: Any) -> Tensor:
    _, data, grad, requires_grad, device = frozen
    fits = isinstance(into, Tensor) and (into.shape, into.dtype) == (data.shape, data.dtype)
    target: Tensor = into if fits else data.clone().to(_here(device))
    if fits:
        with torch.no_grad():
            target.copy_(data)
    if target.is_leaf:
        target.requires_grad_(requires_grad)
        target.grad = None if grad is None else placed(grad.clone().to(target.device), target)
    return target


def _here(device: str) -> torch.device:
    """Return the device, or the CPU if this machine does not have the GPU of a checkpoint."""
    wanted = torch.device(device)
    if wanted.type != "cuda" or (wanted.index or 0) < torch.cuda.device_count():
        return wanted
    return torch.device("cpu")


def _array(frozen: list[Any], into: Any) -> Any:
    _, raw, dtype, shape, scalar = frozen
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    array = np.frombuffer(raw.numpy().tobytes()[:size], dtype).reshape(shape).copy()
    if scalar:
        return array[()]
    fits = isinstance(into, np.ndarray) and (into.shape, into.dtype) == (array.shape, array.dtype)
    if fits and into.flags.writeable:
        into[...] = array
        return into
    return array


def _parts(frozen: list[Any], into: Any) -> list[Any]:
    old = list(into) if isinstance(into, list | tuple | deque) else []
    old += [None] * (len(frozen[1]) - len(old))
    return [thaw(part, each) for part, each in zip(frozen[1], old, strict=False)]


def _list(frozen: list[Any], into: Any) -> list[Any]:
    parts = _parts(frozen, into)
    if type(into) is list:
        into[:] = parts
        return into
    return parts


def _named(frozen: list[Any], into: Any) -> Any:
    if not isinstance(into, tuple) or len(into) != len(frozen[1]):
        raise ValueError("a named tuple, and none stands there")
    return type(into)(*_parts(frozen, into))


def _set(frozen: list[Any], into: Any) -> Any:
    parts = {thaw(each) for each in frozen[1]}
    if type(into) is set:
        into.clear()
        into |= parts
        return into
    return parts


def _mapping(make: Callable[[], Any]) -> Callable[[list[Any], Any], Any]:
    def mapping(frozen: list[Any], into: Any) -> Any:
        old = into if isinstance(into, Mapping) else {}
        parts = [(key := thaw(k), thaw(v, old.get(key))) for k, v in frozen[1]]
        found = into if isinstance(into, dict) else make()
        found.clear()
        for key, value in parts:
            found[key] = value
        return found

    return mapping


def _deque(frozen: list[Any], into: Any) -> deque[Any]:
    found: deque[Any] = into if type(into) is deque else deque(maxlen=frozen[2])
    parts = _parts(frozen, into)
    found.clear()
    found.extend(parts)
    return found


def _generator(frozen: list[Any], into: Any) -> Any:
    state = thaw(frozen[1])
    if isinstance(into, torch.Generator):
        into.set_state(state.cpu())
    elif isinstance(into, np.random.Generator):
        into.bit_generator.state = state
    elif isinstance(into, np.random.RandomState):
        into.set_state(state)
    elif isinstance(into, random.Random):
        into.setstate(state)
    else:
        raise ValueError("a random generator, and none stands there")
    return into


_THAWS: dict[str, Callable[[list[Any], Any], Any]] = {
    "tensor": _tensor,
    "array": _array,
    "list": _list,
    "tuple": lambda frozen, into: tuple(_parts(frozen, into)),
    "named": _named,
    "set": _set,
    "frozenset": lambda frozen, _into: frozenset(thaw(each) for each in frozen[1]),
    "dict": _mapping(dict),
    "ordered": _mapping(OrderedDict),
    "counter": _mapping(Counter),
    "defaultdict": _mapping(dict),
    "deque": _deque,
    "generator": _generator,
    "bytes": lambda frozen, _into: bytes(frozen[1]),
    "bytearray": lambda frozen, _into: bytearray(frozen[1]),
    "complex": lambda frozen, _into: complex(*frozen[1]),
}


def tensors_in(frozen: Any) -> Iterable[Tensor]:
    """Return all tensors of a frozen value."""
    if isinstance(frozen, Tensor):
        yield frozen
    elif isinstance(frozen, list):
        for each in frozen:
            yield from tensors_in(each)
