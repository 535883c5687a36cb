"""Wrappers around a model that change the names of its tensors: files hold the names without them.

`torch.compile` puts `_orig_mod.` before each name, `DataParallel` `module.`, Opacus `_module.`.
What was trained in a wrapper has to load into the plain model, and the other way round.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

INNER = {
    ("torch", "OptimizedModule"): "_orig_mod",
    ("torch", "DataParallel"): "module",
    ("torch", "DistributedDataParallel"): "module",
    ("torch", "FullyShardedDataParallel"): "_fsdp_wrapped_module",
    ("opacus", "AbstractGradSampleModule"): "_module",
}
"""By library and class: the attribute that holds what is wrapped."""


def inner_of(module: nn.Module) -> str | None:
    """The name of the attribute in which a wrapper holds what it wraps; None for other modules."""
    for each in type(module).__mro__:
        found = INNER.get((each.__module__.partition(".")[0], each.__name__))
        if found is not None:
            return found
    return None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model within all wrappers around it."""
    while (inner := inner_of(model)) is not None:
        model = getattr(model, inner)
    return model


def plain_state(model: nn.Module) -> dict[str, Any]:
    """The `state_dict` of a model, by the names that its tensors have without wrappers."""
    state = model.state_dict()
    plain = plain_names(model, state)
    if all(name == key for key, name in plain.items()):
        return state
    renamed = OrderedDict((plain[key], value) for key, value in state.items())
    if (versions := getattr(state, "_metadata", None)) is not None:  # of each module, by its path
        segments = _segments(model)
        renamed._metadata = {  # type: ignore[attr-defined]
            _short(f"{path}.", segments).removesuffix("."): value
            for path, value in versions.items()
        }
    return renamed


def state_for(model: nn.Module, saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved state by the names that this model, in its wrappers, has for the tensors.

    Args:
        model: to be given the state.
        saved: by names with the same wrappers, or without.
    """
    here = {plain: key for key, plain in plain_names(model, model.state_dict()).items()}
    renamed = OrderedDict((here.get(key, key), value) for key, value in saved.items())
    return renamed if len(renamed) == len(saved) else dict(saved)


def plain_names(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Each name without the wrappers that it leads through; as they are where two would be one."""
    segments = _segments(model)
    plain = {name: _short(name, segments) for name in names}
    if len(set(plain.values())) < len(plain):
        return {name: name for name in plain}
    return plain


def _short(name: str, segments: list[tuple[str, str]]) -> str:
    for before, inner in segments:
        if name.startswith(f"{before}{inner}."):
            name = before + name[len(before) + len(inner) + 1 :]
    return name


def _segments(model: nn.Module) -> list[tuple[str, str]]:
    """Of each wrapper the path that leads to it, and the name within; the innermost first."""
    found = [
        (f"{path}." if path else "", inner)
        for path, module in model.named_modules(remove_duplicate=False)
        if (inner := inner_of(module)) is not None
    ]
    return sorted(found, key=lambda each: -len(each[0]))
