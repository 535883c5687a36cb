"""Modules and parameters that a user's class holds beside the models that its hooks make.

A head on `self`, a learnt temperature, a moving average of weights: what they have learnt is kept
with the models, put back before a prediction, and in eval mode where the models are.
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
"""Name of the file, without its ending."""

DEEPEST = 4
"""Containers within containers that are looked into."""
MOST = 1000
"""Items of a container of modules; one of more holds rows."""

Extra = nn.Module | Tensor


def extras_of(owner: object, models: Iterable[nn.Module | None]) -> dict[Place, Extra]:
    """The modules and learnt tensors that an object holds and that are no part of its models.

    Args:
        owner: the scheduler; what it and its class hold is looked at, and globals that its hooks
            name.
        models: those that its hooks have made.
    """
    known = [each for each in models if each is not None]
    return {
        place: extra
        for found in walk(roots_of(owner), known)
        if found.kind in ("state", "value")
        for place, extra in _extras_in(found.place, found.value)
    }


def modules_beside(owner: object, models: Iterable[nn.Module | None]) -> list[nn.Module]:
    """The modules that an object holds beside its models, those without weights too."""
    inside = {id(sub) for each in models if each is not None for sub in each.modules()}
    return [each for each in _modules_in(owner, DEEPEST) if id(each) not in inside]


def save_extras(path: Path, extras: dict[Place, Extra]) -> None:
    """Write what they have learnt, whole or not at all; no file where there is nothing."""
    states = [
        [place.root, [list(step) for step in place.steps], _state_of(each)]
        for place, each in extras.items()
    ]
    states = [each for each in states if not isinstance(each[2], dict) or each[2]]
    if states:
        write_whole(path, partial(torch.save, states))


def load_extras(owner: object, states: Iterable[list[Any]]) -> None:
    """Put back what `save_extras` wrote; warns of what the object does not hold.

    Raises:
        ConfigError: the object holds another module in that place; names it.
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
