"""Leaves weights that are never trained out of files: those of a large model under adapters."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, MutableMapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

DIGEST = "frozen_weights_sha256"
"""The name in a `state_dict` of the digest of the weights that are left out, uint8 of [32]."""

CHUNK = 1 << 26
"""The most bytes of a weight that are copied to main memory at once."""


def leave_out_frozen_weights(model: M) -> M:
    """Leave the weights that take no gradient now out of the `state_dict` of a model.

    Checkpoints and the files of trained models are then as large as the trained weights, such as
    those of LoRA. The digest of what is left out is kept, so `make_feature_model` has to make the
    same frozen weights again wherever the others are loaded: in a resumed run and for predictions.
    A weight that is changed in place after this call is not left out any more.

    Args:
        model: the model with all of its weights, as `make_feature_model` returns it.

    Returns:
        The same model.
    """
    out = _LeftOut(model)
    # A method has no attributes, and torch gives the hook one.
    hooked: Any = model
    hooked.register_state_dict_post_hook(functools.partial(out.remove))
    hooked.register_load_state_dict_pre_hook(out.compare)
    hooked.register_load_state_dict_post_hook(out.excuse)
    return model


class _LeftOut:
    """The weights of one model that are left out."""

    def __init__(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        frozen = {name: each for name, each in parameters.items() if not each.requires_grad}
        self._versions = {name: each._version for name, each in frozen.items()}
        self._digest = _digest_of(frozen)
        self._is_same = False

    def remove(
        self, model: nn.Module, state: MutableMapping[str, Any], prefix: str, _metadata: Any
    ) -> None:
        """Remove the frozen weights from a `state_dict` that was made."""
        for name in self._names(model):
            state.pop(prefix + name, None)
        state[prefix + DIGEST] = self._digest.clone()

    def compare(
        self,
        _model: nn.Module,
        state: MutableMapping[str, Any],
        prefix: str,
        _metadata: Any,
        _strict: bool,
        _missing: list[str],
        _unexpected: list[str],
        errors: list[str],
    ) -> None:
        """Compare the digest of a `state_dict` that is loaded with that of the weights here."""
        then = state.pop(prefix + DIGEST, None)
        self._is_same = isinstance(then, Tensor) and torch.equal(then.cpu(), self._digest)
        if then is not None and not self._is_same:
            errors.append(
                "the frozen weights of this model are not those beside which the saved ones were"
                " trained; make the same model as in the training"
            )

    def excuse(self, model: nn.Module, keys: Any) -> None:
        """Do not call weights missing that were left out and are the same here."""
        if not self._is_same:
            return
        left_out = self._names(model)
        ends = tuple(f".{name}" for name in left_out)
        keys.missing_keys[:] = [
            key for key in keys.missing_keys if key not in left_out and not key.endswith(ends)
        ]

    def _names(self, model: nn.Module) -> set[str]:
        """Return the names of the weights that have not changed since they were frozen."""
        return {
            name
            for name, each in model.named_parameters(remove_duplicate=False)
            if self._versions.get(name) == each._version and not each.requires_grad
        }


def _digest_of(weights: Mapping[str, Tensor]) -> Tensor:
    whole = hashlib.sha256()
    for name in sorted(weights):
        each = weights[name].detach()
        whole.update(f"{name} {each.dtype} {list(each.shape)}\n".encode())
        for part in torch.split(each.contiguous().reshape(-1).view(torch.uint8), CHUNK):
            whole.update(part.cpu().numpy().tobytes())
    return torch.from_numpy(np.frombuffer(whole.digest(), dtype=np.uint8).copy())
