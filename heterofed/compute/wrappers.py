"""Removes from tensor names the prefixes that wrappers around a model add.

`torch.compile` adds `_orig_mod.` to each name, `DataParallel` adds `module.`, and Opacus adds
`_module.`. Files hold the names without prefixes, so that weights which were trained in a wrapper
load into the plain model, and the other way round.
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
"""The attribute that holds the wrapped model, by library and class of the wrapper."""


def inner_of(module: nn.Module) -> str | None:
    """Return the attribute in which a wrapper holds the wrapped model; None for other modules."""
    for each in type(module).__mro__:
        found = INNER.get((each.__module__.partition(".")[0], each.__name__))
        if found is not None:
            return found
    return None


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model within all of its wrappers."""
    while (inner := inner_of(model)) is not None:
        model = getattr(model, inner)
    return model


def plain_state(model: nn.Module) -> dict[str, Any]:
    """Return the `state_dict` of a model, by the names of its tensors without wrappers."""
    state = model.state_dict()
    plain = plain_names(model, state)
    if all(name == key for key, name in plain.items()):
        return state
    renamed = OrderedDict((plain[key], value) for key, value in state.items())
    # One for each module, by its path.
    if (versions := getattr(state, "_metadata", None)) is not None:
        segments = _segments(model)
        renamed._metadata = {  # type: ignore[attr-defined]
            _short(f"{path}.", segments).removesuffix("."): value
            for path, value in versions.items()
        }
    return renamed


def state_for(model: nn.Module, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved state by the names that this model with its wrappers uses.

    Args:
        model: the model that will load the state.
        saved: the state, by names with the same wrappers or without.
    """
    here = {plain: key for key, plain in plain_names(model, model.state_dict()).items()}
    renamed = OrderedDict((here.get(key, key), value) for key, value in saved.items())
    return renamed if len(renamed) == len(saved) else dict(saved)


def plain_names(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Map each name to the name without wrappers; names are kept if two would become equal."""
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
    """Return the path and the attribute of each wrapper, the innermost wrapper first."""
    found = [
        (f"{path}." if path else "", inner)
        for path, module in model.named_modules(remove_duplicate=False)
        if (inner := inner_of(module)) is not None
    ]
    return sorted(found, key=lambda each: -len(each[0]))
