"""Limits of the terms end a task before more leaves, whoever tries what."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from heterofed import Batch
from heterofed import errors as e
from heterofed.hetero_nn.train import leak_watch
from heterofed.messaging import aborts
from heterofed.privacy.embedding_defences import ClippedGaussian
from heterofed.privacy.leak_meters import LEAST_ROWS, InputMeter, LabelMeter
from heterofed.privacy.leak_tests import EVERY, WINDOWS, LeakTest
from heterofed.privacy.ledger import ReleaseLedger
from heterofed.protocol import messages as m
from heterofed.protocol.leak_limits import LeakLimits
from heterofed.simulation.simulate import simulate
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows, run

IDS = [f"id-{number:03}" for number in range(600)]


class Host(TinyHost):
    """Labels that its gradients show to whoever gets them."""

    def __init__(self, results: Path, **settings: Any) -> None:
        super().__init__(results, **{"batch_size": 64, "psi_protocol": "ecdh", **settings})

    def load_local_ids(self) -> list[str]:
        return IDS

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.batches(train_ids):
            labels = torch.tensor([float(int(each[3:]) % 3 == 0) for each in ids])
            yield Batch(feature_model(rows(ids, 2, 0)), labels, ids)


class Collaborator(TinyCollaborator):
    """Counts the batches that it has sent, and the gradients that it has got."""

    got = made = 0

    def load_local_ids(self) -> list[str]:
        return IDS

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.batches(train_ids):
            self.made += 1
            yield Batch(feature_model(rows(ids, 3, 7)), ids=ids)

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        self.got += 1
        super().update_feature_model(features, gradients)


def trained(tmp_path: Path, limits: Any = None, *, home: Path | None = None, **more: Any) -> Any:
    """A run with limits; gives the Collaborator, and the error that ended the run."""
    shop = Collaborator(tmp_path, **more.pop("shop", {}))
    try:
        simulate(Host(tmp_path, limits=limits, **more), [shop], task_id="tiny", home=home)
    except e.HeteroFedError as error:
        return shop, error
    return shop, None


# -- the label leak -----------------------------------------------------------------------------


@pytest.mark.slow
def test_gradients_that_show_labels_are_not_sent_for_long(tmp_path: Path) -> None:
    limits = {"max_label_auc": 0.65}
    shop, error = trained(tmp_path, limits, max_rounds=20)
    assert isinstance(error, e.LeakLimitError)
    assert (error.measure, error.limit, error.party) == ("label_auc", 0.65, "alice")
    assert error.value > 0.65
    assert 0 < shop.got < 32  # of 160
    assert "id-" not in str(error)


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_all_parties_learn_why_and_a_restart_does_not_forget(tmp_path: Path) -> None:
    got = []
    for folder in ("1", "2"):  # a new results folder each time, so nothing is resumed
        host = Host(tmp_path / folder, limits={"max_label_auc": 0.65}, max_rounds=20)
        shop = Collaborator(tmp_path / folder)
        mine, theirs = run(host, shop)
        assert isinstance(mine, e.LeakLimitError)
        assert isinstance(theirs, e.LeakLimitError)
        assert isinstance(theirs, e.TaskAborted)
        assert theirs.measure == "label_auc"
        assert theirs.value == pytest.approx(mine.value, abs=1e-3)
        assert theirs.party == "alice"
        assert "label_auc" in str(theirs)
        got.append(shop.got)
    assert got[0] > got[1] == 0


@pytest.mark.slow
def test_a_defence_is_raised_where_the_terms_allow_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"max_label_auc": 0.65, "raise_defence": True}
    shop, error = trained(tmp_path, limits, max_rounds=6)
    assert error is None
    assert shop.got == 6 * 8
    assert "the defence is raised (1 of 3)" in caplog.text


def test_a_defended_run_is_not_ended(tmp_path: Path) -> None:
    from heterofed.privacy.marvell import Marvell

    limits = {"max_label_auc": 0.65}
    shop, error = trained(
        tmp_path, limits, max_rounds=3, gradient_defence=Marvell(bound=0.55), seed=3
    )
    assert error is None
    assert shop.got == 3 * 8


def test_labels_that_are_no_classes_cannot_be_limited(tmp_path: Path) -> None:
    class Regression(Host):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for each in super().iterate_train_feature(feature_model, train_ids):
                yield Batch(each.features, each.labels * 0.3, each.ids)

    shop = Collaborator(tmp_path)
    with pytest.raises(e.ConfigError, match="class numbers"):
        host = Regression(tmp_path, limits={"max_label_auc": 0.9})
        simulate(host, [shop], task_id="tiny")
    assert shop.got == 0


def test_early_gradients_cannot_slip_past(tmp_path: Path) -> None:
    shop, error = trained(tmp_path, {"max_label_auc": 0.65}, early_gradients=True)
    assert isinstance(error, e.ConfigError)
    assert shop.made == 0


# -- the input leak -----------------------------------------------------------------------------


def test_features_that_show_inputs_are_not_sent_for_long(tmp_path: Path) -> None:
    shop, error = trained(tmp_path, {"max_input_r2": 0.5}, max_rounds=20)
    assert isinstance(error, e.LeakLimitError)
    assert (error.measure, error.party) == ("input_r2", "bob")
    assert shop.made < 32


@pytest.mark.slow
def test_noise_is_raised_on_features(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits = {"max_input_r2": 0.6, "raise_defence": True}
    _, error = trained(tmp_path, limits, max_rounds=5)
    assert error is None
    assert "the defence is raised" in caplog.text


def test_inputs_that_are_not_seen_cannot_be_limited(tmp_path: Path) -> None:
    class Twice(Collaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for each in super().iterate_train_feature(feature_model, train_ids):
                feature_model(torch.zeros(1, 3))
                yield each

    with pytest.raises(e.FeatureError, match="once per batch"):
        simulate(Host(tmp_path, limits={"max_input_r2": 0.9}), [Twice(tmp_path)], task_id="tiny")


# -- what is counted ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "measure", "value"),
    [
        ({"min_intersection": 601}, "intersection", 600),
        ({"min_batch": 65}, "batch", 64),
        ({"max_ids": 599}, "ids", 600),
        ({"max_rounds": 1}, "rounds", 2),
        ({"max_releases_per_row": 1}, "releases_per_row", 2),
    ],
)
def test_what_is_counted_ends_the_task(
    tmp_path: Path, limits: Any, measure: str, value: float
) -> None:
    _, error = trained(tmp_path, limits)
    assert isinstance(error, e.LeakLimitError)
    assert (error.measure, error.value) == (measure, value)


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_bytes_are_counted_over_all_runs(tmp_path: Path) -> None:
    limits = {"max_bytes": 60_000}
    for folder in ("1", "2"):
        shop = Collaborator(tmp_path / folder)
        outcomes = run(Host(tmp_path / folder, limits=limits, max_rounds=1), shop)
    error = next(each for each in outcomes if isinstance(each, e.LeakLimitError))
    assert error.measure == "bytes"
    assert 60_000 < error.value < 75_000
    assert (tmp_path / "1" / "tiny" / "alice" / "summary.json").exists()


def test_an_epsilon_needs_its_defence(tmp_path: Path) -> None:
    for limits in ({"max_eps_labels": 1.0}, {"max_eps_embeddings": 1.0}, {"max_eps_weights": 1.0}):
        shop, error = trained(tmp_path, limits)
        assert isinstance(error, e.ConfigError)
        assert shop.made == 0


def test_an_epsilon_of_the_terms_is_kept_to(tmp_path: Path) -> None:
    noise = ClippedGaussian(1.0, 4.0)
    limits = {"max_eps_embeddings": noise.epsilon(2) + 0.01}
    _, error = trained(tmp_path, limits, max_rounds=4, shop={"embedding_defence": noise})
    assert isinstance(error, e.LeakLimitError)
    assert error.measure == "eps_embeddings"
    assert error.value == pytest.approx(noise.epsilon(3))


@pytest.mark.slow
def test_a_short_last_batch_joins_the_one_before(tmp_path: Path) -> None:
    # 480 train rows are 7 batches of 64 and 32 rows more.
    for every in (0, 7):
        shop, error = trained(tmp_path, {"min_batch": 40}, checkpoint_batches=every)
        assert error is None
        assert shop.got == 2 * 7


# -- who tries what -----------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(), (5,), (10**6, 3), (2**40, 2**40), (0, 2**40), (3, 0)])
def test_a_lie_about_a_limit_is_only_an_end(numbers: tuple[int, ...]) -> None:
    error = aborts.told(m.Abort("leak_limit", "train", "bob", 1, 2, numbers), "bob")
    assert isinstance(error, e.LeakLimitError)
    assert error.measure in ("", *e.LeakLimitError.MEASURES)
    assert "bob ended the task" in str(error)


def test_a_host_cannot_announce_a_split_of_a_few(tmp_path: Path) -> None:
    class Sly(Host):
        def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
            return set(IDS[:64]), set(IDS[64:70])

    shop = Collaborator(tmp_path)
    host = Sly(tmp_path, limits={"min_intersection": 500}, announce_split=True)
    with pytest.raises(e.LeakLimitError, match="split"):
        simulate(host, [shop], task_id="tiny")
    assert shop.made == 0


def test_unknown_and_senseless_limits_are_refused(tmp_path: Path) -> None:
    for wrong in (
        {"max_auc": 0.6},
        {"max_label_auc": 0.4},
        {"max_label_auc": math.nan},
        {"max_eps_labels": math.inf},
        {"min_batch": 0},
        {"max_bytes": 1.5},
        {"raise_defence": 1},
    ):
        with pytest.raises(e.ConfigError, match="limit"):
            simulate(Host(tmp_path, limits=wrong), [Collaborator(tmp_path)], task_id="tiny")
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"max_label_auc": math.nan}), type=LeakLimits)


# -- the test -----------------------------------------------------------------------------------


def batch_of(size: int, apart: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gradients in 8 dimensions whose classes are so far apart, and their labels."""
    labels = (torch.rand(size, generator=generator) < 0.3).long()
    clean = torch.zeros(size, 8)
    clean[:, 0] = (labels * 2 - 1) * apart
    return clean + torch.randn(size, 8, generator=generator), labels


def test_a_leak_is_found_whatever_came_before() -> None:
    draw = random.Random(0)
    test = LeakTest(0.65)
    for _ in range(2000):
        test.add({"norm": draw.betavariate(10, 10)})
    assert test.found() is None
    for _ in range(150):
        test.add({"norm": draw.betavariate(90, 10)})
    found = test.found()
    assert found is not None
    assert found.mean > 0.65


def test_the_rate_of_false_alarms_at_the_limit_itself() -> None:
    draw, alarms = random.Random(1), 0
    for _ in range(200):
        test = LeakTest(0.65)
        for _ in range(150):
            test.add({"norm": float(draw.random() < 0.65), "cosine": draw.betavariate(6.5, 3.5)})
            alarms += test.found() is not None
    assert alarms == 0  # the promise is at most 0.001 of the runs


def test_another_process_goes_on_with_the_evidence() -> None:
    one, other = LeakTest(0.6), LeakTest(0.6)
    for number in range(300):
        value = {"norm": 0.5 + 0.3 * (number % 2)}
        one.add(value)
        other.add(value)
        other = LeakTest(0.6, other.state)
    assert other.evidence == pytest.approx(one.evidence)


def test_a_batch_that_comes_again_is_known_as_long_as_it_counts() -> None:
    test = LeakTest(0.6)
    for number in range(3000):
        assert test.is_new(b"%d" % number)
        test = LeakTest(0.6, test.state)
        assert not test.is_new(b"%d" % number)
    assert not test.is_new(b"%d" % (3000 - EVERY * WINDOWS))
    assert test.is_new(b"7")  # whose measurements are in no window any more
    assert len(test.state) < 10 * EVERY * WINDOWS


def test_a_digest_tells_measured_rows_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    sent, labels = batch_of(64, 1.0, generator)
    seen = {
        LabelMeter().measured(*each).digest
        for each in (
            (sent, sent, labels),
            (sent.half(), sent, labels),
            (sent.bfloat16(), sent, labels),
            (sent, sent, 1 - labels),
            (sent.flip(0), sent, labels),
        )
    }
    assert len(seen) == 5
    assert LabelMeter().measured(sent.clone(), sent, labels).digest in seen
    assert LabelMeter().measured(sent[:9], sent[:9], labels[:9]).parts == ()


class Died(Exception):
    """Ends a party in the middle of a round."""


@pytest.mark.slow
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("how", [pytest.param("ended", marks=pytest.mark.long), "killed"])
def test_batches_that_are_trained_again_count_once(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = 0

    class Dying(Host):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            nonlocal left  # an attribute would be in the checkpoint
            left -= 1
            if not left:
                raise Died
            return super().train_a_batch(feature_projection, labels)

    limits = {"max_label_auc": 0.999, "max_input_r2": 0.999}
    kept: dict[str, int] = {}

    def keep(ledger: ReleaseLedger, measure: str, state: bytes) -> None:
        kept[measure.split()[1]] = msgspec.msgpack.decode(state)["count"]
        keep_evidence(ledger, measure, state)

    keep_evidence = ReleaseLedger.keep_evidence
    monkeypatch.setattr(ReleaseLedger, "keep_evidence", keep)
    monkeypatch.setattr(leak_watch, "KEPT_EVERY", 1)

    def task(folder: str, dies_at: int) -> list[Any]:
        nonlocal left
        left = dies_at
        host = Dying(tmp_path / folder, limits=limits, shuffle=True, max_rounds=3)
        return run(host, Collaborator(tmp_path / folder), task=folder)

    task("whole", 0)
    whole = dict(kept)
    assert whole["label_auc"] >= 3 * 7  # the last batch of a round is short
    kept.clear()
    with monkeypatch.context() as patch:
        if how == "killed":  # nothing is written at the end
            patch.setattr(leak_watch.LeakWatch, "keep", lambda _: None)
        assert isinstance(task("again", 8 + 5)[0], Died)
    assert kept["label_auc"] >= 7 + 4
    assert [each for each in task("again", 0) if isinstance(each, BaseException)] == []
    assert kept == whole


def test_small_batches_are_measured_together() -> None:
    generator, meter = torch.Generator().manual_seed(0), LabelMeter()
    found: list[Any] = []
    for _ in range(40):
        sent, labels = batch_of(4, 3.0, generator)
        found += meter.measured(sent, sent, labels).parts
    assert 3 <= len(found) <= 5
    assert all(each["cosine 1"] > 0.9 for each in found)


def test_rows_of_changing_lengths_are_measured_together() -> None:
    """Else a party could change the length of its features with each batch, to stay unmeasured."""
    generator, meter = torch.Generator().manual_seed(0), LabelMeter()
    found: list[Any] = []
    for number in range(40):
        sent, labels = batch_of(4, 3.0, generator)
        padded = F.pad(sent, (0, number))
        found += meter.measured(padded, padded, labels).parts
    assert 3 <= len(found) <= 5
    assert all(each["cosine 1"] > 0.9 for each in found)
    inputs = InputMeter()
    shares: list[Any] = []
    for number in range(40):
        x = torch.randn(8, 3, generator=generator)
        sent = F.pad(x, (0, number % 5))
        shares += inputs.measured(sent, sent).parts
    assert len(shares) >= 4
    assert all(each["ridge"] > 0.9 for each in shares)
    assert all(len(each) < 64 for each in inputs.waiting)


def test_wide_rows_that_wait_are_few() -> None:
    meter = LabelMeter()
    for width in (10, 1 << 18):
        rows = torch.ones(8, width)
        for _ in range(12):  # of one class, so that nothing can be measured
            meter.measured(rows, rows, torch.zeros(8, dtype=torch.int64))
    assert [len(each) for each in meter.waiting] == [LEAST_ROWS] * 3


def test_wide_features_wait_for_enough_rows() -> None:
    generator, meter = torch.Generator().manual_seed(0), InputMeter()
    mix = torch.randn(400, 40, generator=generator)
    found: list[Any] = []
    for _ in range(10):
        x = torch.randn(32, 400, generator=generator)
        found += meter.measured(x, x @ mix).parts
    assert len(found) == 2
    assert all(0 <= each["ridge"] <= 1 for each in found)
