"""Parties whose models and features are on a GPU train as parties on the CPU do.

Noise and orders are drawn on the CPU, so a run on a GPU must reach the weights of the same run on
the CPU, up to rounding.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heterofed import Batch
from heterofed.errors import NonFiniteError, TaskAborted
from heterofed.privacy.dpsgd import DPSGD
from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.gradient_defences import MaxNorm
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.marvell import Marvell
from tests.e2e.on_device import (
    PlacedCollaborator,
    PlacedHost,
    columns,
    finished,
    joined,
    placed,
    weights,
)
from tests.e2e.tiny import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("home"),
    # The first matrix product on autograd's own thread finds no context there and makes it.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning"),
]

PLACES = [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")]


def pair(tmp: Path, at_host: str, at_shop: str, host: Any = (), shop: Any = ()) -> list[Any]:
    return [
        placed(PlacedHost(tmp, max_rounds=3, **dict(host)), at_host),
        placed(PlacedCollaborator(tmp, **dict(shop)), at_shop),
    ]


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert ours.keys() == theirs.keys()
    for name, each in ours.items():
        torch.testing.assert_close(each, theirs[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize(("at_host", "at_shop"), PLACES)
@pytest.mark.parametrize("early", [False, True])
def test_the_joined_model_is_trained(
    early: bool, at_host: str, at_shop: str, tmp_path: Path
) -> None:
    host, shop = pair(tmp_path, at_host, at_shop, {"early_gradients": early})
    results = finished(host, shop)
    close(weights(*results), joined(host.train_ids, 3, "cuda"))


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "staleness": ({"max_staleness": 2}, {}, 1e-10),
    "fp16": ({"compress_features": "fp16", "compress_gradients": "fp16"}, {}, 1e-3),
    "bf16": ({"compress_features": "bf16", "compress_gradients": "bf16"}, {}, 1e-2),
    "int8": ({"compress_features": "int8", "compress_gradients": "int8"}, {}, 1e-2),
    "dropout": ({"party_dropout": 0.3}, {}, 1e-10),
    "report": ({"leak_report": "full"}, {"leak_report": "full"}, 1e-10),
    "decorrelation": ({}, {"embedding_defence": Decorrelation(0.5)}, 1e-9),
    "max norm": ({"gradient_defence": MaxNorm()}, {}, 0),
    "marvell": ({"gradient_defence": Marvell(bound=0.7)}, {}, 0),
    "labels": ({"label_dp": RandomisedResponse(2.0)}, {}, 0),
    "gaussian": ({}, {"embedding_defence": ClippedGaussian(1.0, 0.5)}, 0),
    "dpsgd": (
        {"weights_defence": DPSGD(1.0, 0.5, batch_size=20), "loss_reduction": "mean"},
        {"weights_defence": DPSGD(1.0, 0.5, batch_size=20)},
        0,
    ),
}
"""Settings of Host and Collaborator, and how far the weights may be from those of the CPU; 0 where
they hang on secret noise."""


@pytest.mark.parametrize(("at_host", "at_shop"), PLACES[1:])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_holds_on_a_gpu(
    name: str, at_host: str, at_shop: str, tmp_path: Path
) -> None:
    host, shop, tolerance = copy.deepcopy(SETTINGS[name])  # some count the steps of a run
    found = weights(*finished(*pair(tmp_path, at_host, at_shop, host, shop)))
    assert all(bool(torch.isfinite(each).all()) for each in found.values())
    if tolerance:
        plain = pair(tmp_path, "cpu", "cpu", host, shop)
        close(found, weights(*finished(*plain, task="plain")), tolerance)


def test_masked_features_of_gpus_are_summed(tmp_path: Path) -> None:
    found = []
    for place in ("cuda", "cpu"):
        settings = {"fusion": "masked_sum", "collaborators": ["bob", "carol"], "max_rounds": 3}
        host = placed(PlacedHost(tmp_path, **settings), place, sums=True)
        shops = [placed(PlacedCollaborator(tmp_path, name), place) for name in ("bob", "carol")]
        found.append(weights(*finished(host, *shops, task=place)))
    close(found[0], found[1], 1e-4)  # masks are added in fixed point


class Stopping(PlacedHost):
    stop = True

    def on_round_end(self) -> None:
        if self.stop and self.current_round == 2:
            raise InterruptedError


@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_moves_between_gpu_and_cpu(first: str, second: str, tmp_path: Path) -> None:
    host = placed(Stopping(tmp_path, max_rounds=4), first)
    outcomes = run(host, placed(PlacedCollaborator(tmp_path), first))
    assert isinstance(outcomes[0], InterruptedError)
    assert isinstance(outcomes[1], TaskAborted)
    host = placed(Stopping(tmp_path, max_rounds=4), second, stop=False)
    results = finished(host, placed(PlacedCollaborator(tmp_path), second))
    close(weights(*results), joined(host.train_ids, 4, "cpu"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of the compiler
@pytest.mark.parametrize(("steps", "early"), [(0, False), (0, True), (2, False)])
def test_compiled_halves_train_as_plain_ones(steps: int, early: bool, tmp_path: Path) -> None:
    settings = {"max_staleness": steps, "early_gradients": early}
    found = []
    for compiled in (True, False):
        parties = pair(tmp_path, "cuda", "cuda", settings)
        for each in parties:
            each.compiled = compiled
        found.append(weights(*finished(*parties, task=str(compiled))))
    close(found[0], found[1], 1e-9)


# -- automatic mixed precision -------------------------------------------------------------------


class ScaledHost(PlacedHost):
    """Trains in float16 with a scaler whose first scale overflows."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**30)
        self.skipped: list[bool] = []
        self.clips = False

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        self.optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            fused = torch.cat([each.float() for each in feature_projection.values()], dim=1)
            output = self.infer_model(fused).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(output.float(), labels.float())
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.clips:
            self.optimizer.unscale_(self.scaler)
            nn.utils.clip_grad_norm_(self.infer_model.parameters(), 1.0)
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.skipped.append(self.scaler.get_scale() < before)
        return loss

    def make_infer_model(self) -> nn.Module:
        return super().make_infer_model().float()


class Watching(PlacedCollaborator):
    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.sizes: list[float] = []

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        self.sizes.append(float(gradients.norm()))
        super().update_feature_model(features, gradients)


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("at_shop", ["cpu", "cuda"])
def test_a_scaler_at_the_host_alone(at_shop: str, clips: bool, tmp_path: Path) -> None:
    host = placed(ScaledHost(tmp_path, max_rounds=12), "cuda", clips=clips)
    shop = placed(Watching(tmp_path), at_shop)
    finished(host, shop)
    assert host.skipped[0]
    assert not host.skipped[-1]
    # A skipped step is skipped by all, and what is sent is not scaled.
    assert len(shop.sizes) == host.skipped.count(False)
    assert max(shop.sizes) < 10


class HalfCollaborator(PlacedCollaborator):
    """Computes in bfloat16, with features in it."""

    def make_feature_model(self) -> nn.Module:
        model = super().make_feature_model().float()
        model.forward = torch.autocast("cuda", dtype=torch.bfloat16)(model.forward)
        return model

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.cuts(train_ids):
            features = feature_model(columns(ids, 3, 7).float().to(self.place))
            assert features.dtype == torch.bfloat16
            yield Batch(features, ids=ids)


def test_features_in_bfloat16_travel_from_a_gpu(tmp_path: Path) -> None:
    host = placed(PlacedHost(tmp_path, max_rounds=3), "cpu")
    found = weights(*finished(host, placed(HalfCollaborator(tmp_path), "cuda")))
    near = joined(host.train_ids, 3, "cpu")
    close({name: each.double() for name, each in found.items()}, near, tolerance=0.05)


# -- what is not finite, and what is waited for --------------------------------------------------


@pytest.mark.parametrize("broken", ["alice", "bob"])
def test_features_that_are_not_finite_end_the_run(broken: str, tmp_path: Path) -> None:
    host, shop = pair(tmp_path, "cuda", "cuda")
    party = host if broken == "alice" else shop
    original = party.iterate_train_feature

    def iterate(feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for number, batch in enumerate(original(feature_model, train_ids)):
            features = batch.features * (torch.nan if number == 1 else 1)
            yield Batch(features, batch.labels, batch.ids)

    party.iterate_train_feature = iterate
    outcomes = run(host, shop)
    own = outcomes[0 if broken == "alice" else 1]
    assert isinstance(own, NonFiniteError)
    assert f"what iterate_train_feature yielded at {broken}" in str(own)


def waits(tmp: Path, rounds: int, at_host: str, at_shop: str) -> tuple[int, int]:
    """How often the library waits for the GPU in a run, as torch counts it, and the batches of a
    round.
    """
    settings = {"max_rounds": rounds, "leak_report": "off"}
    host = placed(PlacedHost(tmp, **settings), at_host, batch=4)
    shop = placed(PlacedCollaborator(tmp, leak_report="off"), at_shop, batch=4)
    host.log_rounds = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            finished(host, shop, task=f"{rounds}{at_host}{at_shop}")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [
        each.filename for each in caught if "synchronizing CUDA operation" in str(each.message)
    ]
    # Waits of these hooks, and of torch's own saving and loading, are not counted.
    found = [each for each in places if "/heterofed/" in each or each.endswith("cuda/streams.py")]
    print(Counter(found))
    return len(found), -(-len(host.train_ids) // 4)


@pytest.mark.parametrize(("at_host", "at_shop"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_party_waits_once_a_batch(at_host: str, at_shop: str, tmp_path: Path) -> None:
    (two, batches), (four, _) = (waits(tmp_path, rounds, at_host, at_shop) for rounds in (2, 4))
    assert four - two <= 2 * batches + 2 * 4  # a round has some of its own


def test_the_default_device_may_be_a_gpu(tmp_path: Path) -> None:
    def on_gpu(scheduler: Any) -> Any:
        original = scheduler.load_local_ids

        def load() -> list[str]:  # on the thread of this party
            torch.set_default_device("cuda")
            ids: list[str] = original()
            return ids

        scheduler.load_local_ids = load
        return scheduler

    host, shop = map(on_gpu, pair(tmp_path, "cuda", "cuda", {"party_dropout": 0.1}))
    found = weights(*finished(host, shop))
    assert len(host.train_ids) > 20
    assert all(bool(torch.isfinite(each).all()) for each in found.values())
