"""Keeps the feature models of a role's sites one model, at one site.

At first all sites take the weights of the first one. After each batch they add up their gradients,
which makes exactly the gradient of a joined model; or they step alone and average their weights
after some batches (FedAvg, McMahan et al., AISTATS 2017). The Host adds up masked parts and can
read neither a part nor the sum; a site can read the sum.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor, nn

from heterofed.compute.wrappers import plain_state
from heterofed.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from heterofed.hetero_nn.models import HalfModels
from heterofed.privacy.mask_exact import ExactMasker, Floats, uncovered
from heterofed.privacy.mask_seal import key_of, opened, sealed
from heterofed.protocol.messages import SiteShare, SiteSum
from heterofed.runs.checkpoint_format import settings_of
from heterofed.runs.run import Run
from heterofed.runs.state import Kept

START = (0, 0)
"""The round and batch of the first weights."""


class SharedModel:
    """The feature model of one site in one run.

    Args:
        run: the run.
        models: the model and its optimizer.
    """

    def __init__(self, run: Run, models: HalfModels) -> None:
        self._run, self._models = run, models
        self._channel: _Channel | None = None
        self._rows = 0

    def begin(self) -> None:
        """Take the weights of the first site.

        Raises:
            ConfigError: weights have no values yet.
        """
        state = plain_state(self._model)
        for name, each in state.items():
            if nn.parameter.is_lazy(each):
                raise ConfigError(
                    f"make_feature_model: {name} has no values yet; run the model on one batch"
                    " there, so that all sites can begin with the same weights"
                )
        channel = self._connected()
        numbers = _flat(state) if channel.leads else np.zeros_like(_flat(state))
        _load(state, channel.total(START, numbers))

    def begin_leg(self) -> None:
        """Have the models of all sites compared once more, because a part of a round begins."""
        self._rows = 0
        self._connected().digest = self._digest()

    def add_up_gradients(self, round_number: int, batch: int) -> bool:
        """Replace the gradients of the model by the sums over all sites.

        Returns:
            Whether any site has gradients; otherwise there is no step.

        Raises:
            FeatureError: a gradient is not finite, or too large.
            ConfigError: a gradient is sparse.
            RemoteProtocolError: the Host sent something else than the sum.
        """
        learning = _learning(self._model)
        numbers = np.concatenate([_gradients(learning), _presence(learning)])
        total = self._connected().total((round_number, batch), numbers)
        split = len(numbers) - len(learning)
        present, start = total[split:] > 0.5, 0
        for each, has_gradient in zip(learning.values(), present, strict=True):
            part = torch.from_numpy(total[start : start + each.numel()]).reshape(each.shape)
            start += each.numel()
            each.grad = part.to(each) if has_gradient else None
        return bool(present.any())

    def count(self, rows: int) -> None:
        """Count the rows of a batch on which this site stepped alone."""
        self._rows += rows

    def average(self, round_number: int, batch: int) -> None:
        """Replace the weights by their mean over all sites, by the rows since the last one.

        Raises:
            FeatureError: a weight is not finite, or too large.
            RemoteProtocolError: the Host sent something else than the sum.
        """
        state, rows = plain_state(self._model), float(self._rows)
        numbers = np.append(_flat(state)[:-1] * rows, rows)
        total = self._connected().total((round_number, batch), numbers)
        self._rows = 0
        if total[-1] > 0.5:
            _load(state, total[:-1] / total[-1])

    # -- as a part of checkpoints ------------------------------------------------------------

    def note(self, kept: Kept) -> None:
        """Keep the first weights; in later rounds the checkpoint has the model."""
        weights = {name: each.detach().clone() for name, each in plain_state(self._model).items()}
        kept.sites = {} if self._run.round else {"weights": weights}

    def take_up(self) -> None:
        """Load the first weights, if the run has rolled back to before the first round."""
        weights: Mapping[str, Tensor] = self._run.state.kept.sites.get("weights", {})
        with torch.no_grad():
            for name, each in plain_state(self._model).items() if weights else ():
                each.copy_(weights[name])

    # -- within ------------------------------------------------------------------------------

    @property
    def _model(self) -> nn.Module:
        model = self._models.feature_model
        return nn.Module() if model is None else model  # a frozen site may have none

    def _connected(self) -> _Channel:
        if self._channel is None or self._channel.secrets is not self._run.mask_secrets:
            self._channel = _Channel(self._run)
        return self._channel

    def _digest(self) -> bytes:
        """Return a digest of the model and the settings of its optimizer."""
        digest, optimizer = sha256(), self._models.feature_optimizer
        digest.update(repr(settings_of(optimizer)["groups"]).encode())
        for name, each in plain_state(self._model).items():
            digest.update(repr((name, each.dtype, tuple(each.shape), each.requires_grad)).encode())
            digest.update(each.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.digest()


class _Channel:
    """The way to the other sites since the parties connected.

    Args:
        run: the run.

    Attributes:
        secrets: the secrets that this party shares with all other Collaborators.
        leads: whether this is the first site of its role.
        digest: the digest of the model that is to be compared with the next part; empty if none.
    """

    def __init__(self, run: Run) -> None:
        role = run.plan.sites_with(run.party.name)
        if role is None:
            raise LocalProtocolError("this party is no site of a role")
        if not run.mask_secrets:
            raise RemoteProtocolError(
                f"{run.plan.host} sent no masking keys for a run with sites;"
                f" {RemoteProtocolError.remedy}",
                party=run.plan.host,
            )
        self._run, self._role, self.secrets = run, role, run.mask_secrets
        (self._host,) = run.party.peers.values()
        self._first, own = role.parties[0], run.party.name
        self.leads, self.digest = own == self._first, b""
        self._shared = {name: self.secrets[name] for name in role.parties if name != own}
        self._masker = ExactMasker(own, self._shared)

    def total(self, place: tuple[int, int], numbers: Floats) -> Floats:
        """Return the sum of the numbers of all sites.

        Args:
            place: the numbers of the round and of the batch.
            numbers: the numbers of this site.
        """
        run, party, own = self._run, self._run.party, self._run.party.name
        key, keys = run.sum_key, tuple[bytes, ...]()
        if self.leads and not key:
            key = key_of(list(self._shared.values()))
            keys = tuple(sealed(key, secret, own, name) for name, secret in self._shared.items())
        check = None
        if self.digest and run.sum_key:  # before, not all sites have the key
            content = b"".join(each.to_bytes(8, "big") for each in place) + self.digest
            check, self.digest = hmac.digest(key, content, sha256), b""
        masked = self._masker.mask(numbers, place, key if self.leads else None)
        party.post(self._host, SiteShare(*place, check, keys), [masked])
        mail = party.take(self._host, SiteSum)
        copy = mail.of(SiteSum).key
        if copy is not None:
            key = opened(copy, self._shared[self._first], self._first, own)
        run.sum_key = key
        return uncovered(mail.payload, place, key)


def _learning(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def _gradients(learning: Mapping[str, nn.Parameter]) -> Floats:
    parts = []
    for name, each in learning.items():
        if each.grad is not None and each.grad.layout is not torch.strided:
            raise ConfigError(
                f"the gradient of {name} is sparse, and sums over sites are of dense ones; make the"
                " layer with sparse=False"
            )
        gradient = torch.zeros_like(each) if each.grad is None else each.grad
        parts.append(_numbers(gradient))
    return np.concatenate(parts)


def _presence(learning: Mapping[str, nn.Parameter]) -> Floats:
    return np.asarray([float(each.grad is not None) for each in learning.values()])


def _numbers(tensor: Tensor) -> Floats:
    numbers: Floats = tensor.detach().to("cpu", torch.float64).reshape(-1).numpy()
    return numbers


def _flat(state: Mapping[str, Tensor]) -> Floats:
    """Return all numbers, and a zero, because a part of a sum is never empty."""
    return np.concatenate([*(_numbers(each) for each in state.values()), np.zeros(1)])


def _load(state: Mapping[str, Tensor], numbers: Floats) -> None:
    start = 0
    with torch.no_grad():
        for each in state.values():
            part = torch.from_numpy(numbers[start : start + each.numel()]).reshape(each.shape)
            start += each.numel()
            each.copy_(part if each.is_floating_point() else part.round())
