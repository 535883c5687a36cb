"""Encodes a party's models, optimizers and user state as the bytes of a checkpoint, and decodes it.

A checkpoint is loaded with `weights_only`, so it holds tensors and plain values and no code.
"""

from __future__ import annotations

import io
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.compute.sharded_tensors import whole
from heterofed.compute.wrappers import plain_state, state_for
from heterofed.errors import CheckpointError, ConfigError, ResumeError
from heterofed.runs.state import Kept

logger = logging.getLogger("heterofed")

LOADABLE = "tensors and plain values (numbers, strings, lists, dicts)"


FORMAT = 2
"""The version of the format, which changes whenever the content of a checkpoint changes."""


@dataclass(slots=True)
class Snapshot:
    """The content of a checkpoint: the state of one party after a round.

    Attributes:
        round, batch: the number of whole rounds so far, and of batches of the next round.
        last: whether this is after the last round.
        states: the `state_dict` of each model and optimizer, by name.
        metrics: the keys of each metrics set, and the number of bytes of its CSV file.
        kept: the state of the run itself.
        carried: the state of the user's other objects.
        extra: the result of the user's `extra_state`.
    """

    round: int
    batch: int = 0
    last: bool = False
    states: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, tuple[list[str], int]] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)
    carried: list[Any] = field(default_factory=list)
    extra: Any = None


def encode(snapshot: Snapshot, *, proven: bool = False) -> bytes:
    """Encode a snapshot as bytes.

    Args:
        snapshot: the snapshot; its NumPy scalars are converted to plain numbers.
        proven: whether a snapshot of the same models and optimizers was loaded successfully.
            Otherwise this one is loaded as a test before anything depends on it.

    Raises:
        ConfigError: `extra_state`, or the state of an optimizer or model, holds something other
            than tensors and plain values.
    """
    whole = {name: getattr(snapshot, name) for name in Snapshot.__slots__}
    whole["kept"] = {name: getattr(snapshot.kept, name) for name in Kept.__slots__}
    whole = {name: plain(value) for name, value in whole.items()}
    extra = _saved_if_it_can_be(whole["extra"])
    if not _loads(extra):
        raise ConfigError(
            f"extra_state returned what cannot be loaded safely; extra_state must give {LOADABLE}"
        )
    content = _saved(whole | {"extra": extra, "format": FORMAT})
    if not proven and not _loads(content):
        named = (whole["kept"]["hyperparameters"] or {}) | whole["states"]
        culprits = [name for name, each in named.items() if not _loads(_saved(each))]
        raise ConfigError(
            f"the state of {', '.join(culprits) or 'this run'} cannot be kept: it must hold"
            f" {LOADABLE}, since nothing else can be loaded safely; look at what its hook gives it"
        )
    return content


def decode(content: bytes) -> Snapshot:
    """Decode the bytes that `encode` returned.

    Raises:
        CheckpointError: the bytes are not a snapshot, or have another format.
    """
    try:
        whole = dict(_loaded(content))
        written = whole.pop("format", 1)
        if written == FORMAT:
            whole |= {"extra": _loaded(whole["extra"]), "kept": Kept(**whole["kept"])}
            return Snapshot(**whole)
    except Exception as error:
        raise CheckpointError(
            "a checkpoint is intact but cannot be read by this version of heterofed and torch; go"
            ' on with those that wrote it, or start all parties with resume="never"'
        ) from error
    raise CheckpointError(
        f"a checkpoint was written in format {written}, and this version of heterofed reads format"
        f" {FORMAT}; go on with the version that wrote it, or start all parties with"
        ' resume="never"'
    )


def plain(value: Any) -> Any:
    """Convert NumPy scalars within a value to numbers, because `weights_only` refuses the
    scalars, and sharded tensors to whole ones.
    """
    if isinstance(value, Tensor):
        return whole(value)
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if type(value) in (dict, OrderedDict):
        return {plain(key): plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(each) for each in value)
    return value


def state_of(thing: nn.Module | Optimizer) -> dict[str, Any]:
    """Return the `state_dict` without parameters that have no shape yet."""
    state = plain_state(thing) if isinstance(thing, nn.Module) else thing.state_dict()
    return {name: each for name, each in state.items() if not _is_lazy(each)}


def make_plain(optimizer: Optimizer) -> None:
    """Convert the hyperparameters to the types of a checkpoint, so that all runs use the same
    values.
    """
    for group in optimizer.param_groups:
        group.update({key: plain(each) for key, each in group.items() if key != "params"})


def settings_of(optimizer: Optimizer) -> dict[str, Any]:
    """Return the class, and the content of each parameter group without the parameters."""
    groups = [
        {key: plain(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    return {"class": type(optimizer).__name__, "groups": groups}


def put_back(name: str, thing: nn.Module | Optimizer, saved: Mapping[str, Any]) -> None:
    """Load a saved state into a model or optimizer.

    Raises:
        ResumeError: the model has other tensors than when it was saved. The message names them.
    """
    if isinstance(thing, nn.Module):
        saved = state_for(thing, saved)
        differences = list(_differences(thing.state_dict(), saved))
        if differences:
            raise ResumeError(
                f"{name} is not the one of the checkpoint: {'; '.join(differences[:5])}; make the"
                ' same model as when the run began, or start all parties with resume="never"'
            )
    try:
        if isinstance(thing, nn.Module):
            # Parameters without a shape are missing.
            thing.load_state_dict(dict(saved), strict=False)
        else:
            thing.load_state_dict(dict(saved))
    except (ValueError, RuntimeError, KeyError) as error:
        raise ResumeError(
            f"{name} cannot take up the state of the checkpoint; make the same one as when the run"
            ' began, or start all parties with resume="never"'
        ) from error


def check_optimizers(now: Mapping[str, Optimizer], before: Mapping[str, Any]) -> None:
    """Check that the optimizers are the same as when the run began.

    Raises:
        ResumeError: they differ. The message names both.
    """
    changed = []
    for name in sorted(now.keys() | before.keys()):
        here = settings_of(now[name]) if name in now else None
        then = before.get(name)
        was, is_ = (each["class"] if each else "none" for each in (then, here))
        if was != is_:
            changed.append(f"{name} was {was} and is {is_}")
        elif here and then and (keys := _keys(here) ^ _keys(then)):
            changed.append(f"{name}, a {is_}, had not the same settings: {', '.join(sorted(keys))}")
    if changed:
        raise ResumeError(
            f"the run that waits here began otherwise: {'; '.join(changed)}; give the optimizers"
            ' and is_feature_trainable that it began with, or start all parties with resume="never"'
        )


def _keys(settings: Mapping[str, Any]) -> set[str]:
    return {key for group in settings["groups"] for key in group}


def bring_back_settings(name: str, optimizer: Optimizer, before: Mapping[str, Any]) -> None:
    """Restore the hyperparameters that the run began with, and log those that this overrides."""
    made = settings_of(optimizer)["groups"]
    for index, (now, then) in enumerate(zip(made, before["groups"], strict=False)):
        optimizer.param_groups[index].update(then)
        changed = [
            f"{key} {then.get(key)!r} (now {value!r})"
            for key, value in now.items()
            if key in then and repr(then[key]) != repr(value)
        ]
        if changed:
            logger.warning(
                "%s, group %d: the run goes on with the settings it began with: %s",
                name,
                index,
                ", ".join(changed),
            )


def _is_lazy(value: object) -> bool:
    return isinstance(value, Tensor) and bool(nn.parameter.is_lazy(value))


def _differences(now: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(now.keys() | saved.keys()):
        if name not in saved:
            if not _is_lazy(now[name]):
                yield f"{name} is new"
        elif name not in now:
            yield f"{name} is missing"
        elif isinstance(now[name], Tensor) and isinstance(saved[name], Tensor):
            if _is_lazy(now[name]):
                continue
            here, there = now[name], saved[name]
            if (here.shape, here.dtype) != (there.shape, there.dtype):
                yield (
                    f"{name} is {list(here.shape)} {here.dtype}, then {list(there.shape)}"
                    f" {there.dtype}"
                )


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _saved_if_it_can_be(value: object) -> bytes:
    """Return the saved bytes, or none for a value that cannot be saved, such as a lock."""
    try:
        return _saved(value)
    except Exception:  # pickle may raise anything
        return b""


def _loads(content: bytes) -> bool:
    try:
        _loaded(content)
    except Exception:  # torch may raise anything
        return False
    return True


def _loaded(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
