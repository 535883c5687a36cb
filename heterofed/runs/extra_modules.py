"""Saves modules and parameters that a user's class holds beside the models of its hooks.

Examples are a head on `self`, a learnt temperature, or a moving average of weights. Their state is
saved with the models and restored before a prediction. They are in eval mode when the models are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heterofed.compute.wrappers import state_for
from heterofed.errors import ConfigError
from heterofed.reporting.results import write_whole
from heterofed.runs.checkpoint_format import state_of
from heterofed.runs.frozen_values import SCALARS
from heterofed.runs.object_walk import Place, attributes_of, is_users, roots_of, walk
from heterofed.runs.user_state import look

logger = logging.getLogger("heterofed")

EXTRA = "extra_modules"
"""The name of the file without its suffix."""

DEEPEST = 4
"""The number of nested containers that are searched."""
MOST = 1000
"""The most items of a container of modules; a larger one is assumed to hold rows."""

Extra = nn.Module | Tensor


def extras_of(owner: object, models: Iterable[nn.Module | None]) -> dict[Place, Extra]:
    """Return the modules and learnt tensors of an object that are not part of its models.

    Args:
        owner: the scheduler. Its attributes, those of its class, and the globals that its hooks use
            are searched.
        models: the models that its hooks made.
    """
    known = [each for each in models if each is not None]
    return {
        place: extra
        for found in walk(roots_of(owner), known)
        if found.kind in ("state", "value")
        for place, extra in _extras_in(found.place, found.value)
    }


def modules_beside(owner: object, models: Iterable[nn.Module | None]) -> list[nn.Module]:
    """Return the modules that an object holds beside its models, including those without
    weights.
    """
    inside = {id(sub) for each in models if each is not None for sub in each.modules()}
    return [each for each in _modules_in(owner, DEEPEST) if id(each) not in inside]


def save_extras(path: Path, extras: dict[Place, Extra]) -> None:
    """Write their learnt state atomically; without any, no file is written."""
    states = [
        [place.root, [list(step) for step in place.steps], _state_of(each)]
        for place, each in extras.items()
    ]
    states = [each for each in states if not isinstance(each[2], dict) or each[2]]
    if states:
        write_whole(path, partial(torch.save, states))


def load_extras(owner: object, states: Iterable[list[Any]]) -> None:
    """Restore what `save_extras` wrote, and warn about entries that the object does not hold.

    Raises:
        ConfigError: the object holds another module in the same place. The message names it.
    """
    roots = roots_of(owner)
    for root, steps, state in states:
        place = Place(root, tuple((kind, key) for kind, key in steps))
        try:
            now = look(roots, place)[1]
        except (AttributeError, LookupError, TypeError):
            now = None
        if now is None:
            logger.warning(
                "training left weights of %s, which is not there now: where predictions need it,"
                " make it in __init__ or in a make_ hook",
                place,
            )
            continue
        try:
            _load(now, state)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"{place} is not what it was in training ({type(error).__name__}): make the same"
                " module, whose weights were kept with the models"
            ) from None


def named_extras(states: Iterable[list[Any]]) -> dict[str, Tensor]:
    """Return what `save_extras` wrote as tensors by name: the place, and the name in its state."""
    named: dict[str, Tensor] = {}
    for root, steps, state in states:
        place = str(Place(root, tuple((kind, key) for kind, key in steps)))
        if isinstance(state, Tensor):
            named[place] = state
        else:
            named |= {f"{place}.{name}": each for name, each in state.items()}
    return named


def _extras_in(place: Place, value: Any, depth: int = DEEPEST) -> Iterator[tuple[Place, Extra]]:
    if isinstance(value, nn.Module) or (isinstance(value, Tensor) and _learns(value)):
        yield place, value
    elif isinstance(value, list | tuple | Mapping) and depth and len(value) <= MOST:
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            if type(key) in SCALARS:
                yield from _extras_in(place.then("key", key), each, depth - 1)


def _learns(tensor: Tensor) -> bool:
    return tensor.requires_grad and tensor.is_leaf and not nn.parameter.is_lazy(tensor)


def _modules_in(value: Any, depth: int) -> Iterator[nn.Module]:
    held: Iterable[Any] = ()
    if isinstance(value, nn.Module) and depth < DEEPEST:
        yield value
    elif isinstance(value, list | tuple | Mapping):
        held = () if len(value) > MOST else value.values() if isinstance(value, Mapping) else value
    elif is_users(type(value)):
        held = [each for _, each in attributes_of(value)]
    for each in held if depth else ():
        yield from _modules_in(each, depth - 1)


def _state_of(extra: Extra) -> Any:
    return extra.detach() if isinstance(extra, Tensor) else state_of(extra)


@torch.no_grad()
def _load(now: Any, state: Any) -> None:
    if isinstance(now, nn.Module):
        now.load_state_dict(state_for(now, state))
    elif isinstance(now, Tensor) and isinstance(state, Tensor) and now.shape == state.shape:
        now.copy_(state)
    else:
        raise TypeError
