"""Every epsilon that is told, against the accountants of Google's differential privacy library."""

from __future__ import annotations

import math

import dp_accounting as oracle
import pytest
import torch

from heterofed.privacy.accountant import gaussian_epsilon, noise_for
from heterofed.privacy.dpsgd import DPSGD, joint_noise, sampled_epsilon
from heterofed.privacy.embedding_defences import ClippedGaussian
from heterofed.privacy.label_dp import RandomisedResponse

DELTAS = [1e-3, 1e-5, 1e-9]


def composed(*events: oracle.DpEvent, count: int = 1) -> oracle.pld.PLDAccountant:
    """An accountant that has seen these events, as often."""
    accountant = oracle.pld.PLDAccountant(value_discretization_interval=1e-3)
    for event in events:
        accountant.compose(event, count)
    return accountant


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("releases", [1, 7, 400])
@pytest.mark.parametrize("std", [0.3, 1.0, 4.0, 60.0])
def test_gaussian_releases(std: float, releases: int, delta: float) -> None:
    told = gaussian_epsilon(releases, 1.0, std, delta)
    exact = oracle.get_epsilon_gaussian(std / math.sqrt(releases), delta)
    assert exact * (1 - 1e-9) <= told <= exact * 1.001 + 1e-6


@pytest.mark.parametrize("delta", DELTAS)
def test_releases_compose(delta: float) -> None:
    exact = composed(oracle.GaussianDpEvent(5.0), count=12).get_epsilon(delta)
    assert gaussian_epsilon(12, 1.0, 5.0, delta) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
def test_noise_that_an_epsilon_needs(epsilon: float) -> None:
    exact = oracle.get_sigma_gaussian(epsilon, 1e-5)
    assert exact * (1 - 1e-6) <= noise_for(epsilon, 1e-5, 1) <= exact * 1.002


def test_embeddings_are_another_row_in_the_place_of_one() -> None:
    """Which moves what is sent by twice the clip."""
    replaced = oracle.pld.PLDAccountant(
        oracle.NeighboringRelation.REPLACE_ONE, value_discretization_interval=1e-3
    )
    replaced.compose(oracle.GaussianDpEvent(3.0), 5)
    told = ClippedGaussian(clip=0.7, noise_multiplier=3.0).epsilon(5)
    assert told == pytest.approx(replaced.get_epsilon(1e-5), rel=0.01)


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(0.8, 0.01, 500), (1.1, 64 / 60_000, 938), (2.0, 0.2, 50)]
)
@pytest.mark.parametrize("delta", [1e-5, 1e-7])
def test_sampled_weights(noise: float, rate: float, steps: int, delta: float) -> None:
    """At least the exact epsilon, and no looser than the other library's Renyi accountant."""
    event = oracle.PoissonSampledDpEvent(rate, oracle.GaussianDpEvent(noise))
    renyi = oracle.rdp.RdpAccountant()
    renyi.compose(event, steps)
    told = sampled_epsilon(noise, rate, steps, delta)
    assert composed(event, count=steps).get_epsilon(delta) * 0.999 <= told
    assert told <= renyi.get_epsilon(delta) * 1.02


def test_weights_of_several_parties() -> None:
    """Both parties' steps on one batch are one mechanism."""
    both = oracle.ComposedDpEvent([oracle.GaussianDpEvent(2.0), oracle.GaussianDpEvent(3.0)])
    exact = composed(both, count=6).get_epsilon(1e-5)
    assert gaussian_epsilon(6, 1.0, joint_noise([2.0, 3.0]), 1e-5) == pytest.approx(exact, rel=0.01)
    dpsgd = DPSGD(2.0, 1.0, batch_size=8, rows=64, others=[3.0])
    assert dpsgd.epsilon_where_batches_are_known(6) == pytest.approx(exact, rel=0.01)
    dpsgd.steps = 48
    assert dpsgd.epsilon(6) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 5.0])
def test_turned_labels(epsilon: float, classes: int) -> None:
    response = RandomisedResponse(epsilon, classes)
    replaced = classes * (1 - response.keeping) / (classes - 1)  # by any label, the same too
    accountant = oracle.pld.PLDAccountant(
        oracle.NeighboringRelation.REPLACE_ONE, value_discretization_interval=1e-4
    )
    event = oracle.RandomizedResponseDpEvent(replaced, classes)
    if not accountant.supports(event):
        accountant = oracle.pld.PLDAccountant(
            oracle.NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=1e-4
        )
    accountant.compose(event)
    assert accountant.get_epsilon(0.0) == pytest.approx(response.epsilon, abs=1e-3)


@pytest.mark.parametrize("epsilon", [30.0, 37.0, 50.0])
def test_rare_turns_are_as_rare_as_told(epsilon: float) -> None:
    """1 - keeping has few digits left; what decides has all of them."""

    class Counted(RandomisedResponse):
        @property
        def turning(self) -> float:
            return self._turning

    told = math.log((1 - Counted(epsilon).turning) / Counted(epsilon).turning)
    assert told == pytest.approx(epsilon, rel=1e-12)
    labels = torch.arange(1000) % 2
    assert torch.equal(RandomisedResponse(epsilon)(labels, [str(n) for n in range(1000)]), labels)
