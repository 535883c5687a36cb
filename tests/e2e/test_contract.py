"""The contract with users, line by line: each hook, attribute and setting does what it says."""

from __future__ import annotations

import functools
import logging
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn, optim

from heterofed import Batch, ConfigError, DataChecker, HeteroNNHostScheduler, register_metrics
from heterofed import errors as e
from heterofed.compute.tensors import pack
from heterofed.events import PhaseBegan, PhaseEnded, RoundEnded, StillWaiting, TaskEnded
from heterofed.messaging.notices import Notices
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, rows, run, slow_batches

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


def trained(*schedulers: Any) -> list[Any]:
    """Run parties that all reach the end."""
    outcomes = run(*schedulers)
    for each in outcomes:
        if isinstance(each, BaseException):
            raise each
    return outcomes


def even(model: nn.Module) -> nn.Module:
    """Weights that owe nothing to random numbers: both parties share a process here."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
    return model


def weights(result: Any, name: str = "feature_model") -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(result.models[name], weights_only=True)
    return state


# -- frozen parties, label-only Host, unused features ---------------------------------------


def test_frozen_collaborator_sends_no_gradient_and_keeps_its_weights(tmp_path: Path) -> None:
    modes = []

    class Frozen(TinyCollaborator):
        def make_feature_model(self) -> nn.Module:
            self.made = nn.Linear(3, 4)
            self.before = self.made.weight.detach().clone()
            return self.made

        def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
            raise AssertionError("a frozen party needs no optimizer")

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            modes.append((feature_model.training, torch.is_grad_enabled()))
            yield from super().iterate_train_feature(feature_model, train_ids)

    frozen = Frozen(tmp_path, is_feature_trainable=False)
    _, collaborator = trained(TinyHost(tmp_path), frozen)
    assert torch.equal(weights(collaborator)["weight"], frozen.before)
    assert set(modes) == {(False, False)}
    rows_sent = collaborator.phases["train"].bytes_sent
    assert collaborator.phases["train"].bytes_received < rows_sent / 2


def test_frozen_host_trains_the_infer_model_alone(tmp_path: Path) -> None:
    class Frozen(TinyHost):
        def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
            raise AssertionError("a frozen party needs no optimizer")

        def make_feature_model(self) -> nn.Module:
            self.made = nn.Linear(2, 3)
            self.before = self.made.weight.detach().clone()
            return self.made

    frozen = Frozen(tmp_path, is_feature_trainable=False)
    host, _ = trained(frozen, TinyCollaborator(tmp_path))
    assert torch.equal(weights(host)["weight"], frozen.before)
    assert len(frozen.optimizer.optimizers) == 1


def test_label_only_host_is_absent_from_the_projection(tmp_path: Path) -> None:
    seen = []

    class LabelOnly(TinyHost):
        def make_feature_model(self) -> None:  # type: ignore[override]
            return None

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            assert feature_model is None
            for start in range(0, len(train_ids), self.batch):
                ids = train_ids[start : start + self.batch]
                yield Batch(None, torch.tensor([float(int(each[3:]) % 2) for each in ids]), ids)

        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            seen.append(list(feature_projection))
            return super().train_a_batch(feature_projection, labels)

    host, _ = trained(LabelOnly(tmp_path), TinyCollaborator(tmp_path))
    assert set(map(tuple, seen)) == {("bob",)}
    assert set(host.models) == {"infer_model"}


def test_party_whose_features_a_batch_does_not_use_makes_no_step(tmp_path: Path) -> None:
    updates = []

    class Ignores(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            used = {key: value for key, value in feature_projection.items() if key != "bob"}
            return super().train_a_batch(used, labels)

        def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
            pass

    class Counts(TinyCollaborator):
        def update_feature_model(self, features: Any, gradients: Any) -> None:
            updates.append(1)

    trained(Ignores(tmp_path), Counts(tmp_path))
    assert not updates


# -- tensors --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradients_travel_in_the_features_own_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    got = []

    class Casts(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for item in super().iterate_train_feature(feature_model, train_ids):
                yield item.to(dtype)

        def update_feature_model(self, features: Any, gradients: Any) -> None:
            got.append((gradients.dtype, gradients.shape == features.shape))
            super().update_feature_model(features, gradients)

    class Fuses(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            assert feature_projection["bob"].dtype == dtype
            plain = {key: value.float() for key, value in feature_projection.items()}
            return super().train_a_batch(plain, labels)

        def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
            pass

    trained(Fuses(tmp_path), Casts(tmp_path))
    assert set(got) == {(dtype, True)}


@pytest.mark.parametrize("layout", ["tuple", "dict"])
def test_several_tensors_integers_and_booleans(layout: str, tmp_path: Path) -> None:
    got = []

    class Sends(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for item in super().iterate_train_feature(feature_model, train_ids):
                size = len(item)
                parts = {
                    "mask": torch.arange(size) % 2 == 0,
                    "embedding": item,
                    "index": torch.arange(size, dtype=torch.int64) - 3,
                    "byte": torch.zeros(size, 3, dtype=torch.uint8),
                    "unused": item * 2,
                }
                yield parts if layout == "dict" else tuple(parts.values())

        def update_feature_model(self, features: Any, gradients: Any) -> None:
            got.append(gradients)
            super().update_feature_model(features, gradients)

    class Reads(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            theirs = feature_projection["bob"]
            mask, embedding, index, byte, _ = theirs.values() if layout == "dict" else theirs
            assert (mask.dtype, index.dtype, byte.dtype) == (torch.bool, torch.int64, torch.uint8)
            assert index[0] == -3
            assert not index.requires_grad
            fused = {"alice": feature_projection["alice"], "bob": embedding * mask[:, None]}
            return super().train_a_batch(fused, labels)

        def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
            assert isinstance(batched_feature_projections[0]["bob"], dict | tuple)

    trained(Reads(tmp_path), Sends(tmp_path))
    for gradients in got:
        mask, embedding, index, byte, unused = gradients.values() if layout == "dict" else gradients
        assert (mask, index, byte, unused) == (None, None, None, None)
        assert embedding.shape[1:] == (4,)
        assert torch.all(embedding[1::2] == 0)


def test_last_batch_may_be_smaller(tmp_path: Path) -> None:
    sizes = []

    class Looks(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            sizes.append({len(each) for each in [*feature_projection.values(), labels]})
            return super().train_a_batch(feature_projection, labels)

    host = Looks(tmp_path, max_rounds=1)
    trained(host, TinyCollaborator(tmp_path))
    count = len(host.train_ids)
    assert count % 16 != 0
    assert sizes == [{16}] * (count // 16) + [{count % 16}]


def test_batches_of_another_form_are_refused_at_home(tmp_path: Path) -> None:
    class Changes(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for number, item in enumerate(super().iterate_train_feature(feature_model, train_ids)):
                yield item.double() if number else item

    at_host, at_collaborator = run(TinyHost(tmp_path), Changes(tmp_path))
    assert type(at_collaborator) is e.FeatureError
    assert "the same layout" in str(at_collaborator)
    assert isinstance(at_host, e.FeatureError)
    assert "bob ended the task" in str(at_host)


def test_a_batch_too_large_to_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            yield torch.zeros(1, 1).expand(16, 13 << 18)  # 208 MiB, of one item

    _, at_collaborator = run(TinyHost(tmp_path), Wide(tmp_path))
    assert type(at_collaborator) is e.FeatureError
    assert "smaller batch size" in str(at_collaborator)


# -- gradients ------------------------------------------------------------------------------


def test_the_gradient_that_counts_is_the_one_when_train_a_batch_returns(tmp_path: Path) -> None:
    norms = []

    class Clips(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            loss = super().train_a_batch(feature_projection, labels)
            feature_projection["bob"].grad.mul_(0).add_(0.25)
            return loss

    class Looks(TinyCollaborator):
        def update_feature_model(self, features: Any, gradients: Any) -> None:
            norms.append(gradients.unique().tolist())

    trained(Clips(tmp_path), Looks(tmp_path))
    assert norms
    assert all(each == [0.25] for each in norms)


def test_two_backwards_add_up(tmp_path: Path) -> None:
    ratios = []

    class Twice(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            loss = self.infer_model(torch.cat(list(feature_projection.values()), 1)).mean()
            loss.backward(retain_graph=True)
            once = feature_projection["bob"].grad.clone()
            loss.backward()
            ratios.append(torch.allclose(feature_projection["bob"].grad, 2 * once))

    trained(Twice(tmp_path), TinyCollaborator(tmp_path))
    assert ratios
    assert all(ratios)


@pytest.mark.parametrize("change", ["clip", "data", "second backward", "forget", "new tensor"])
def test_gradients_changed_after_backward_win_over_those_sent_ahead(
    change: str, tmp_path: Path
) -> None:
    class Changes(TinyHost):
        def make_feature_model(self) -> nn.Module:
            return even(nn.Linear(2, 3))

        def make_infer_model(self) -> nn.Module:
            return even(nn.Linear(7, 1))

        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            loss = super().train_a_batch(feature_projection, labels)
            leaf = feature_projection["bob"]
            if change == "clip":
                leaf.grad.mul_(0.5)
            elif change == "data":
                leaf.grad.data.zero_()
            elif change == "second backward":
                (leaf.sum() * 0.1).backward()
            elif change == "new tensor":
                leaf.grad = torch.ones_like(leaf)
            else:
                leaf.grad = None
            return loss

    counted: list[Any] = []

    class Ahead(TinyCollaborator):
        def make_feature_model(self) -> nn.Module:
            return even(nn.Linear(3, 4))

    class ByHook(Ahead):
        """Overrides the hook, so that nothing is worked on ahead: what the result should be."""

        def update_feature_model(self, features: Any, gradients: Any) -> None:
            counted.append(gradients)
            super().update_feature_model(features, gradients)

    ahead, plain = (
        trained(
            Changes(tmp_path / kind.__name__, early_gradients=True), kind(tmp_path / kind.__name__)
        )[1]
        for kind in (Ahead, ByHook)
    )
    for key, value in weights(plain).items():
        torch.testing.assert_close(weights(ahead)[key], value, rtol=0, atol=0)
    assert bool(counted) is (change != "forget")


@pytest.mark.parametrize("change", ["clip", "second backward", "forget"])
def test_gradients_that_are_sent_once_stay_as_they_were(change: str, tmp_path: Path) -> None:
    class Changes(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            loss = super().train_a_batch(feature_projection, labels)
            leaf = feature_projection["bob"]
            if change == "clip":
                leaf.grad.mul_(0.5)
            elif change == "second backward":
                (leaf.sum() * 0.1).backward()
            else:
                leaf.grad = None
            return loss

    host, other = run(Changes(tmp_path, early_gradients="once"), TinyCollaborator(tmp_path))
    assert isinstance(host, ConfigError)
    assert "after they were sent" in str(host)
    assert isinstance(other, e.TaskFailed)


def test_gradients_that_are_sent_once_count_once_and_train_the_same(tmp_path: Path) -> None:
    found = []
    for early in (False, "once"):
        home = tmp_path / str(early)
        host, other = trained(TinyHost(home, early_gradients=early), TinyCollaborator(home))
        sent = (host.folder / "outbound.csv").read_text()
        assert "BatchDone" not in sent.partition("test")[0]
        found.append((weights(other), [line for line in sent.splitlines() if "Gradients" in line]))
    (plain, sent), (once, sent_once) = found
    assert sent == sent_once, "one message for each batch"
    for key, value in plain.items():
        torch.testing.assert_close(once[key], value, rtol=0, atol=0)


def test_by_default_no_gradient_leaves_before_train_a_batch_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Tensor] = []

    class Hides(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            loss = super().train_a_batch(feature_projection, labels)
            feature_projection["bob"].grad.fill_(0.125)
            return loss

    def watched(tensors: dict[str, Tensor], *how: Any, **options: Any) -> Any:
        sent.extend(each.clone() for each in tensors.values())
        return pack(tensors, *how, **options)

    monkeypatch.setattr("heterofed.hetero_nn.train.host_loop.pack", watched)
    trained(Hides(tmp_path), TinyCollaborator(tmp_path))
    assert sent
    assert all(bool((each == 0.125).all()) for each in sent)


# -- rounds and tests -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log_rounds", "expected"), [(0, [1, 5]), (1, [1, 2, 3, 4, 5]), (2, [1, 2, 4, 5]), (9, [1, 5])]
)
def test_log_rounds(log_rounds: int, expected: list[int], tmp_path: Path) -> None:
    host, _ = trained(
        TinyHost(tmp_path, max_rounds=5, log_rounds=log_rounds), TinyCollaborator(tmp_path)
    )
    assert pd.read_csv(host.metrics["quality"])["round"].tolist() == expected
    assert pd.read_csv(host.metrics["train"])["round"].tolist() == [1, 2, 3, 4, 5]


def test_is_task_finished_may_end_early_and_a_final_test_follows(tmp_path: Path) -> None:
    class Stops(TinyHost):
        def is_task_finished(self) -> bool:
            return self.current_round >= 3

    host, collaborator = trained(Stops(tmp_path, max_rounds=0), TinyCollaborator(tmp_path))
    assert (host.rounds, collaborator.rounds) == (3, 3)
    assert pd.read_csv(host.metrics["quality"])["round"].tolist() == [1, 3]


def test_is_reach_max_rounds_is_for_users_too(tmp_path: Path) -> None:
    class Asks(TinyHost):
        def is_task_finished(self) -> bool:
            return self._is_reach_max_rounds()

    host, _ = trained(Asks(tmp_path, max_rounds=2), TinyCollaborator(tmp_path))
    assert host.rounds == 2


def test_on_round_end_runs_once_a_round_at_every_party(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    class Host(TinyHost):
        def on_round_end(self) -> None:
            seen.append(("alice", self.current_round))

    class Collaborator(TinyCollaborator):
        def on_round_end(self) -> None:
            seen.append(("bob", self.current_round))

    trained(Host(tmp_path), Collaborator(tmp_path))
    assert sorted(seen) == [("alice", 1), ("alice", 2), ("bob", 1), ("bob", 2)]


def test_mark_best_keeps_that_rounds_weights_at_every_party(tmp_path: Path) -> None:
    kept: dict[str, Tensor] = {}

    class Host(TinyHost):
        def test(self, **batches: Any) -> None:  # type: ignore[override]
            if self.current_round == 2:
                self.mark_best()
                kept["alice"] = self.feature_model.weight.detach().clone()

    class Collaborator(TinyCollaborator):
        def on_round_end(self) -> None:
            if self.current_round == 2:
                kept["bob"] = self.feature_model.weight.detach().clone()

    results = trained(Host(tmp_path, max_rounds=4, log_rounds=1), Collaborator(tmp_path))
    for name, result in zip(("alice", "bob"), results, strict=True):
        assert torch.equal(weights(result, "best_feature_model")["weight"], kept[name])
        assert not torch.equal(weights(result)["weight"], kept[name])
    assert "best_infer_model" in results[0].models
    with pytest.raises(ConfigError, match="mark_best"):
        TinyHost(tmp_path).mark_best()


def test_test_a_batch_and_end_test_stand_in_for_test(tmp_path: Path) -> None:
    calls: list[Any] = []

    class Bare(HeteroNNHostScheduler):  # not of the tiny Host, which has a test
        batch = TinyHost.batch
        load_local_ids = TinyHost.load_local_ids
        make_feature_model = TinyHost.make_feature_model
        make_feature_optimizer = TinyHost.make_feature_optimizer
        make_infer_model = TinyHost.make_infer_model
        make_infer_optimizer = TinyHost.make_infer_optimizer
        iterate_train_feature = TinyHost.iterate_train_feature
        iterate_test_feature = TinyHost.iterate_test_feature
        train_a_batch = TinyHost.train_a_batch

        def test_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> None:
            assert not torch.is_grad_enabled()
            assert not self.infer_model.training
            calls.append(len(labels))

        def end_test(self) -> None:
            calls.append("end")

    make: Any = Bare  # type checkers do not know that `test` is not needed then
    host = make("alice", max_rounds=1, join_timeout=60, results_dir=tmp_path)
    trained(host, TinyCollaborator(tmp_path))
    assert calls[-1] == "end"
    assert sum(calls[:-1]) == len(host.test_ids)


def test_end_test_is_the_place_to_append_metrics(tmp_path: Path) -> None:
    class Counts(TinyHost):
        rows = 0

        def test_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> None:
            self.rows += len(labels)

        @register_metrics(name="tested", keys=["rows"])
        def end_test(self) -> None:
            self.get_metrics("tested").append_metrics_item({"rows": self.rows})
            self.rows = 0

    host = Counts(tmp_path)
    result, _ = trained(host, TinyCollaborator(tmp_path))
    table = pd.read_csv(result.metrics["tested"])
    assert table["round"].tolist() == [1, 2]
    assert table["rows"].tolist() == [len(host.test_ids)] * 2


def test_tests_run_in_eval_mode_without_gradient_and_modes_come_back(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Host(TinyHost):
        def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
            seen.append((feature_model.training, torch.is_grad_enabled()))
            yield from super().iterate_test_feature(feature_model, test_ids)

        def test(self, **batches: Any) -> None:  # type: ignore[override]
            seen.append((self.infer_model.training, torch.is_grad_enabled()))

        def on_round_end(self) -> None:
            seen.append((self.infer_model.training, self.feature_model.training))

    trained(Host(tmp_path, max_rounds=1), TinyCollaborator(tmp_path))
    assert seen == [(False, False), (False, False), (True, True)]


def test_train_a_batch_may_return_a_dict(tmp_path: Path) -> None:
    class Host(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            loss = super().train_a_batch(feature_projection, labels)
            return {"loss": loss, "positives": labels.sum()}

    host, _ = trained(Host(tmp_path), TinyCollaborator(tmp_path))
    table = pd.read_csv(host.metrics["train"])
    assert list(table.columns) == ["round", "loss", "positives"]
    assert table.dtypes.tolist() == [int, float, float]


def test_train_a_batch_may_return_nothing(tmp_path: Path) -> None:
    class Host(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            super().train_a_batch(feature_projection, labels)

    host, _ = trained(Host(tmp_path), TinyCollaborator(tmp_path))
    assert set(host.metrics) == {"quality", "leakage"}


# -- ids and order --------------------------------------------------------------------------


def test_split_dataset_gets_a_set_that_iterates_in_sorted_order(tmp_path: Path) -> None:
    seen = []

    class Host(TinyHost):
        def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
            assert isinstance(id_intersection, set)
            listed = list(id_intersection)
            seen.append(listed)
            return set(listed[:30]), set(listed[30:])

    class Collaborator(TinyCollaborator):
        split_dataset = Host.split_dataset

    trained(Host(tmp_path), Collaborator(tmp_path))
    assert seen == [IDS[10:50]] * 2


def test_split_may_name_positions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def positions(_self: Any, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return {f"id-{n}" for n in range(20)}, {f"id-{n}" for n in range(5)}

    class Host(TinyHost):
        split_dataset = positions

    class Collaborator(TinyCollaborator):
        split_dataset = positions

    caplog.set_level(logging.INFO, "heterofed")
    host = Host(tmp_path)
    trained(host, Collaborator(tmp_path))
    assert len(host.train_ids) == 20
    said = [each for each in caplog.messages if "not ids of the intersection" in each]
    assert len(said) == 2


@pytest.mark.parametrize("shuffle", [False, True])
def test_train_ids_come_in_the_agreed_order(shuffle: bool, tmp_path: Path) -> None:
    seen: dict[str, list[list[str]]] = {"alice": [], "bob": []}

    class Host(TinyHost):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            if feature_model.training:
                seen["alice"].append(train_ids)
            yield from super().iterate_train_feature(feature_model, train_ids)

    class Collaborator(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            if feature_model.training:
                seen["bob"].append(train_ids)
            yield from super().iterate_train_feature(feature_model, train_ids)

    host = Host(tmp_path, shuffle=shuffle, seed=5)
    trained(host, Collaborator(tmp_path))
    assert seen["alice"] == seen["bob"]
    first, second = seen["alice"]
    assert sorted(first) == sorted(second) == host.train_ids
    assert (first == second == host.train_ids) is not shuffle


# -- what hooks may read --------------------------------------------------------------------


def test_models_can_be_used_in_validate_context(tmp_path: Path) -> None:
    made = []

    class Host(TinyHost):
        def make_feature_model(self) -> nn.Module:
            made.append(1)
            return super().make_feature_model()

        def validate_context(self) -> None:
            super().validate_context()
            self.first = self.feature_model

        def on_round_end(self) -> None:
            assert self.feature_model is self.first

    trained(Host(tmp_path), TinyCollaborator(tmp_path))
    assert made == [1]


def test_attributes_before_a_task(tmp_path: Path) -> None:
    host = TinyHost(tmp_path)
    assert (host.train_ids, host.test_ids, host.current_round, host.task_id) == ([], [], 0, None)
    with pytest.raises(ConfigError, match="made when a task is launched"):
        _ = host.feature_model
    with pytest.raises(ConfigError, match="no metrics set 'quality'"):
        host.get_metrics("quality")


def test_settings_can_be_read_and_shadowed(tmp_path: Path) -> None:
    host = TinyHost(tmp_path, name="a", max_rounds=3, log_rounds=2, calculation_timeout=7)
    assert (host.feature_key, host.name, host.max_rounds, host.log_rounds) == ("alice", "a", 3, 2)
    assert (host.calculation_timeout, host.schedule_timeout) == (7, 30)
    assert (host.data_channel_timeout, host.is_feature_trainable) == ((30, 60), True)
    host.max_rounds = 99
    assert host.max_rounds == 99
    assert trained(host, TinyCollaborator(tmp_path))[0].rounds == 3


def test_optimizer_covers_infer_and_own_feature_model(tmp_path: Path) -> None:
    host = TinyHost(tmp_path)
    trained(host, TinyCollaborator(tmp_path))
    assert host.optimizer.optimizers == (host.infer_optimizer, host.feature_optimizer)
    host.optimizer.zero_grad()
    assert host.feature_model.weight.grad is None


@pytest.mark.parametrize(
    ("hook", "says"),
    [
        ("make_infer_optimizer", "the infer model has weights"),
        ("make_feature_optimizer", "is_feature_trainable=False"),
    ],
)
def test_none_where_an_optimizer_is_needed(hook: str, says: str, tmp_path: Path) -> None:
    host: Any = TinyHost(tmp_path)
    setattr(host, hook, lambda *_: None)
    at_host, _ = run(host, TinyCollaborator(tmp_path))
    assert type(at_host) is ConfigError
    assert says in str(at_host)


@pytest.mark.parametrize("hook", ["make_feature_model", "make_feature_optimizer"])
def test_other_things_than_models_and_optimizers(hook: str, tmp_path: Path) -> None:
    collaborator: Any = TinyCollaborator(tmp_path)
    setattr(collaborator, hook, lambda *_: 3)
    _, at_collaborator = run(TinyHost(tmp_path), collaborator)
    assert type(at_collaborator) is ConfigError
    assert f"{hook} returned a" in str(at_collaborator)


# -- time, logs, callbacks ------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("sleeper", ["alice", "bob"])
def test_calculation_timeout_ends_a_silence(sleeper: str, tmp_path: Path) -> None:
    ended = threading.Event()

    def end(event: Any) -> None:
        if isinstance(event, TaskEnded):
            ended.set()

    host = TinyHost(tmp_path, calculation_timeout=6, psi_protocol="ecdh", callbacks=[end])
    collaborator = TinyCollaborator(tmp_path, callbacks=[end])
    fell_asleep: list[bool] = []

    def sleep() -> None:
        fell_asleep.append(ended.wait(60))  # the other party gives up

    (host if sleeper == "alice" else collaborator).on_round_end = sleep  # type: ignore[method-assign]
    outcomes = run(host, collaborator)
    at_sleeper, at_other = outcomes if sleeper == "alice" else reversed(outcomes)
    assert type(at_other) is e.PeerTimeoutError
    assert sleeper in str(at_other)
    assert "calculation_timeout" in str(at_other)
    assert isinstance(at_sleeper, e.PeerTimeoutError | e.PeerLostError)
    assert fell_asleep == [True]


@pytest.mark.long
def test_no_limit_on_computing(tmp_path: Path) -> None:
    """Neither for who is silent nor, with a batch too big for the network, for who does not read.

    `test_calculation_timeout_ends_a_silence` shows that there is a limit otherwise.
    """

    class Wide(TinyCollaborator):
        def make_feature_model(self) -> nn.Module:
            return nn.Linear(3, WIDE)

    host = TinyHost(
        tmp_path, calculation_timeout=0, max_rounds=1, data_channel_timeout=(30, 2), batch_size=16
    )
    collaborator = Wide(tmp_path, data_channel_timeout=(30, 2))
    slow_batches(host, pause=6, most=1)
    slow_batches(collaborator, pause=3, most=1)
    trained(host, collaborator)


WIDE = 1_150_000
"""Columns with which a batch of 16 rows (70 MiB) is more than the network takes unread."""


@pytest.mark.long
def test_who_computes_owes_nobody_half_a_message(tmp_path: Path) -> None:
    class Wide(TinyCollaborator):
        def make_feature_model(self) -> nn.Module:
            return nn.Linear(3, WIDE)

    host = TinyHost(tmp_path, max_rounds=1)
    slow_batches(host, pause=6, most=1)  # longer than a message may stop in the middle
    trained(host, Wide(tmp_path, data_channel_timeout=(30, 2)))


def test_waiting_says_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heterofed.rendezvous.join.NOTICE_SECONDS", 0.5)
    monkeypatch.setattr("heterofed.messaging.party.Notices", functools.partial(Notices, 0.5))
    events: list[Any] = []
    host = TinyHost(tmp_path, join_timeout=2, collaborators=["carol"], callbacks=[events.append])
    run(host)
    waits = [each for each in events if isinstance(each, StillWaiting)]
    assert len(waits) >= 2
    assert all(each.parties == ("carol",) for each in waits)


def test_callbacks_get_every_event_and_may_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Any] = []

    def broken(_event: Any) -> None:
        raise RuntimeError("callback")

    trained(TinyHost(tmp_path, callbacks=[broken, events.append]), TinyCollaborator(tmp_path))
    begun = [each.phase for each in events if isinstance(each, PhaseBegan)]
    ended = [each.phase for each in events if isinstance(each, PhaseEnded)]
    a_round = ["train", "test", "checkpoint"]
    expected = ["join", "prepare", "psi", "split", *a_round, *a_round, "finish"]
    assert begun == ended == expected
    rounds = [each for each in events if isinstance(each, RoundEnded)]
    assert [(each.round, each.rounds) for each in rounds] == [(1, 2), (2, 2)]
    assert all(0 <= each.metrics["accuracy"] <= 1 for each in rounds)
    assert events[-1] == TaskEnded()
    assert sum("a callback raised" in each for each in caplog.messages) == 1


def test_hook_errors_keep_their_traceback(tmp_path: Path) -> None:
    class Host(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            return self._helper_of_the_user()

        def _helper_of_the_user(self) -> None:
            raise ZeroDivisionError("mine")

    at_host, _ = run(Host(tmp_path), TinyCollaborator(tmp_path))
    text = "".join(traceback.format_exception(at_host))
    assert "_helper_of_the_user" in text
    assert "raised in train_a_batch of alice" in text
    assert "party alice, phase train, round 1, batch 0" in text


# -- DataChecker ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verdict", [True, False, (True, "fine"), (False, "files are missing"), RuntimeError("no table")]
)
def test_data_checker(
    verdict: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    class Checks(DataChecker):
        def verify_data(self) -> Any:
            assert self.task_id == "tiny"
            if isinstance(verdict, Exception):
                raise verdict
            return verdict

    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "heterofed")
    good = verdict is True or (isinstance(verdict, tuple) and verdict[0])
    assert Checks("tiny").execute_verification() is good
    assert ("no table" in caplog.text) is isinstance(verdict, Exception)
    caplog.clear()
    trained(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    word = "passed" if good else "failed"
    assert f"the data check for this task {word}" in caplog.text
    assert [each for each in tmp_path.iterdir() if each.is_file()] == []


def test_data_checker_needs_its_hook_and_a_task_id() -> None:
    class Bare(DataChecker):
        pass

    with pytest.raises(TypeError, match="verify_data"):
        Bare("tiny")  # type: ignore[abstract]


def test_own_rows_are_what_hooks_think() -> None:
    assert rows(["id-001"], 2, 0).shape == (1, 2)
