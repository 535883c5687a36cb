"""What the largest message that a peer may send takes a Host: at most three times its size.

Nothing but features and gradients is larger than 1 MiB, so of these: one for each dtype, as one row
of very many numbers and as very many rows of few.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
import torch

from heterofed.compute.features import FeatureBatch
from heterofed.compute.tensors import is_finite
from heterofed.hetero_nn.feature_means import MAX_ROW, FeatureMeans, read_imputers
from heterofed.protocol import messages as m
from heterofed.protocol.plan import Plan
from heterofed.reporting.diagnostics import Harmless
from heterofed.runs.artifacts import Trained
from tests.adversarial.peers import TASK, LyingCollaborator
from tests.e2e.processes import Parties

SIZE = Plan(host="alice", collaborators=("bob",)).max_batch_bytes

BASE = 128 << 20
"""What it may take besides: frames on their way in both directions, sums of a party's features."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak")

QUICK = {("bool", "one row"), ("float16", "one row")}
CASES = [
    pytest.param(dtype, form, marks=[] if (dtype, form) in QUICK else [pytest.mark.long])
    for dtype in m.ITEM_BYTES
    for form in ("one row", "many rows")
]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "form"), CASES)
def test_the_largest_features(dtype: str, form: str, parties: Parties, tmp_path: Path) -> None:
    items = SIZE // m.ITEM_BYTES[dtype]
    shape = (1, items) if form == "one row" else (items // 64, 64)
    host = parties.start("-m", "tests.performance.hungry_host", TASK, str(tmp_path), str(shape[0]))
    bob = LyingCollaborator().to_train()
    spec = m.TensorSpec("", dtype, shape)  # type: ignore[arg-type]
    payload = memoryview(bytes(1 << 20))
    features = m.Features(1, 0, shape[0], "tensor", (spec,))
    bob.link.say(features, [payload] * (spec.nbytes // len(payload)))
    while "took" not in host.output:
        assert host.running, host.output
        bob.link.pump()
    bob.link.close()
    taken = int(re.findall(r"took (-?\d+)", host.output)[0])
    assert taken < 3 * SIZE + BASE, f"{taken / SIZE:.2f} times its size"


@pytest.mark.parametrize("dtype", m.ITEM_BYTES)
def test_means_of_features_stay_small(dtype: str, tmp_path: Path) -> None:
    """190 MiB of booleans in one row became 4.7 GiB: their sums were kept in float64, thrice."""
    state: dict[str, object] = {}
    means = FeatureMeans(state, Harmless())
    each = getattr(torch, dtype)
    halves = {str(n): torch.ones(2, MAX_ROW // 2, dtype=each) for n in range(2)}
    means.add("bob", FeatureBatch("tuple", halves))
    means.add("bob", FeatureBatch("tuple", halves))
    means.add("eve", FeatureBatch("tensor", {"": torch.ones(1, MAX_ROW + 1, dtype=each)}))
    path = tmp_path / "feature_means.pt"
    means.save(path)
    stands = read_imputers(Trained(tmp_path, bytes(16), 1, 0, "separate", "last"))
    kept = stands["bob"].means["1"]
    assert kept is not None
    assert kept.dtype == each
    assert bool((kept == (1 if each.is_floating_point else 0)).all())
    assert stands["eve"].means[""] is None
    if not each.is_floating_point:
        assert path.stat().st_size < 1 << 16
    assert path.stat().st_size < MAX_ROW * each.itemsize + (1 << 16)


def test_means_are_over_all_rows_of_all_batches(tmp_path: Path) -> None:
    """Batches of one size are added up first; others, and other dtypes, come in between."""
    rows = torch.randn(700, 3, generator=torch.Generator().manual_seed(1))
    for dtype in (torch.float32, torch.float64, torch.float16):
        state: dict[str, object] = {}
        for part in (rows[:600], rows[600:]):  # a round that goes on in another process
            means = FeatureMeans(state, Harmless())
            for batch in torch.split(part.to(dtype), 64):
                means.add("bob", FeatureBatch("tensor", {"": batch, "one": batch[:, 0]}))
            means.settle()
        means.save(tmp_path / "feature_means.pt")
        kept = read_imputers(Trained(tmp_path, bytes(16), 1, 0, "separate", "last"))["bob"].means
        for name, want in (("", rows.mean(dim=0)), ("one", rows[:, 0].mean())):
            found = kept[name]
            assert found is not None
            torch.testing.assert_close(found.double(), want.double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", sorted(m.GRADIENT_DTYPES))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_numbers_that_are_not_finite_are_found_anywhere(dtype: str, bad: float | None) -> None:
    numbers = torch.full((3, 1 << 20), 2.0, dtype=getattr(torch, dtype))
    if bad is not None:
        numbers[2, -1] = bad
    assert is_finite(numbers) == (bad is None)
    assert is_finite(numbers.t()) == (bad is None)
    assert is_finite(torch.full((2, 1 << 20), torch.finfo(numbers.dtype).max, dtype=numbers.dtype))
