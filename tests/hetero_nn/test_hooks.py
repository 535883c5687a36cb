"""Every hook of the contract, one by one: who calls it, when, with what, on which thread."""

from __future__ import annotations

import ast
import importlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heterofed import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler, TaskResult
from tests.e2e.processes import ROOT
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run

Calls = dict[str, list[Any]]

HOOKS = {
    name
    for cls in (HeteroNNHostScheduler, HeteroNNCollaboratorScheduler)
    for name in dir(cls)
    if (getattr(cls, name).__doc__ or "").startswith("Hook")
}


class Recording:
    """Notes each call of a hook, and on which thread it came."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.calls: Calls = defaultdict(list)
        self.order: list[str] = []
        self.threads: set[int] = set()
        for hook in HOOKS & set(dir(self)):
            setattr(self, hook, self.noting(hook, getattr(self, hook)))

    def noting(self, hook: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[hook].append((args, kwargs))
            self.order.append(hook)
            self.threads.add(threading.get_ident())
            return original(*args, **kwargs)

        return call


class Host(Recording, TinyHost):
    """The tiny Host; its modes are noted where batches are made."""

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for item in super().iterate_train_feature(feature_model, train_ids):
            self.calls["modes"].append((feature_model.training, torch.is_grad_enabled()))
            yield item

    def launch_task(self, *args: Any, **kwargs: Any) -> TaskResult:
        self.launched_on = threading.get_ident()
        return super().launch_task(*args, **kwargs)


class Collaborator(Recording, TinyCollaborator):
    """The tiny Collaborator."""

    def launch_task(self, *args: Any, **kwargs: Any) -> TaskResult:
        self.launched_on = threading.get_ident()
        return super().launch_task(*args, **kwargs)

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        super().update_feature_model(features, gradients)


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Both parties after one run of two rounds of three batches and one test batch each."""
    folder = tmp_path_factory.mktemp("hooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFED_HOME", str(folder / "home"))
        both = Host(folder, log_rounds=1), Collaborator(folder)
        results = run(*both)
    assert all(isinstance(each, TaskResult) for each in results), results
    return both


def test_validate_context_comes_first(parties: tuple[Any, Any]) -> None:
    assert [each.order[0] for each in parties] == ["validate_context"] * 2
    assert [len(each.calls["validate_context"]) for each in parties] == [1, 1]


def test_load_local_ids_is_asked_once_before_models_are_made(parties: tuple[Any, Any]) -> None:
    for each in parties:
        assert each.order[1:3] == ["load_local_ids", "make_feature_model"]
        assert len(each.calls["load_local_ids"]) == 1


def test_split_dataset_gets_the_common_ids_once(parties: tuple[Any, Any]) -> None:
    for each in parties:
        [((common,), _)] = each.calls["split_dataset"]
        assert list(common) == IDS[10:50]
        assert isinstance(common, set)


def test_split_places_is_asked_before_split_dataset(home: Path, tmp_path: Path) -> None:
    class Half:
        def split_places(self, ids: Any) -> Any:
            return np.arange(0, len(ids), 2), np.arange(1, len(ids), 4)

        def split_dataset(self, id_intersection: set[str]) -> Any:
            raise AssertionError

    class Host(Half, TinyHost): ...

    class Collaborator(Half, TinyCollaborator): ...

    host, collaborator = Host(tmp_path), Collaborator(tmp_path)
    results = run(host, collaborator)
    assert [each.rounds for each in results] == [2, 2]
    assert host.train_ids == collaborator.train_ids == IDS[10:50:2]
    assert host.test_ids == collaborator.test_ids == IDS[11:50:4]


def test_make_feature_model_is_asked_once(parties: tuple[Any, Any]) -> None:
    assert [each.calls["make_feature_model"] for each in parties] == [[((), {})]] * 2


def test_make_feature_optimizer_gets_the_model(parties: tuple[Any, Any]) -> None:
    for each in parties:
        [((model,), _)] = each.calls["make_feature_optimizer"]
        assert model is each.feature_model


def test_make_infer_model_is_asked_once_of_the_host(parties: tuple[Any, Any]) -> None:
    assert parties[0].calls["make_infer_model"] == [((), {})]
    assert not hasattr(parties[1], "make_infer_model")


def test_make_infer_optimizer_gets_the_model(parties: tuple[Any, Any]) -> None:
    [((model,), _)] = parties[0].calls["make_infer_optimizer"]
    assert model is parties[0].infer_model


def test_iterate_train_feature_gets_the_model_and_sorted_train_ids(
    parties: tuple[Any, Any],
) -> None:
    for each in parties:
        asked = [args for args, _ in each.calls["iterate_train_feature"]]
        own = [(model, ids) for model, ids in asked if ids == each.train_ids]
        assert len(own) == 2  # one a round
        assert all(model is each.feature_model for model, _ in own)
        assert each.train_ids == sorted(each.train_ids)
    assert parties[0].train_ids == parties[1].train_ids


def test_iterate_test_feature_runs_in_eval_mode_without_gradient(
    parties: tuple[Any, Any],
) -> None:
    host, collaborator = parties
    for each in parties:
        assert [args[1] for args, _ in each.calls["iterate_test_feature"]] == [each.test_ids] * 2
    assert set(host.calls["modes"]) == {(True, True), (False, False)}
    assert host.feature_model.training
    assert host.infer_model.training
    assert collaborator.feature_model.training


def test_train_a_batch_gets_features_by_key_and_labels(parties: tuple[Any, Any]) -> None:
    calls = parties[0].calls["train_a_batch"]
    assert len(calls) == 2 * -(-len(parties[0].train_ids) // 16)
    for (projection, labels), _ in calls:
        assert list(projection) == ["alice", "bob"]
        assert len(projection["alice"]) == len(projection["bob"]) == len(labels)
        assert projection["bob"].grad is not None
        assert not projection["alice"].is_leaf


def test_test_is_called_with_its_keyword_names(parties: tuple[Any, Any]) -> None:
    calls = parties[0].calls["test"]
    assert len(calls) == 2
    for args, kwargs in calls:
        assert args == ()
        assert set(kwargs) == {"batched_feature_projections", "batched_labels"}
        assert sum(len(each) for each in kwargs["batched_labels"]) == len(parties[0].test_ids)


def test_update_feature_model_gets_features_and_their_gradients(
    parties: tuple[Any, Any],
) -> None:
    calls = parties[1].calls["update_feature_model"]
    assert len(calls) == len(parties[0].calls["train_a_batch"])
    for (features, gradients), _ in calls:
        assert isinstance(features, Tensor)
        assert features.grad_fn is not None
        assert gradients.shape == features.shape


def test_is_task_finished_is_asked_after_each_round(parties: tuple[Any, Any]) -> None:
    asked = [each for each in parties[0].order if each in ("test", "is_task_finished")]
    assert asked == ["test", "is_task_finished"] * 2


def test_on_round_end_follows_the_test(parties: tuple[Any, Any]) -> None:
    assert [len(each.calls["on_round_end"]) for each in parties] == [2, 2]
    order = [each for each in parties[0].order if each in ("test", "on_round_end")]
    assert order == ["test", "on_round_end"] * 2


def test_extra_state_is_asked_for_each_checkpoint(parties: tuple[Any, Any]) -> None:
    for each in parties:
        assert len(each.calls["extra_state"]) == 3  # after the split and each round
        assert not each.calls["load_extra_state"]


@pytest.mark.slow
def test_load_extra_state_gets_what_extra_state_gave(tmp_path: Path, home: Path) -> None:
    del home

    class Breaks(TinyCollaborator):
        taken: Any = None

        def extra_state(self) -> Any:
            return {"round": self.current_round, "rows": torch.arange(3)}

        def load_extra_state(self, state: Any) -> None:
            self.taken = state

        def on_round_end(self) -> None:
            if self.current_round == 2 and self.taken is None:
                raise KeyError("stop")

    run(TinyHost(tmp_path), Breaks(tmp_path))
    again = Breaks(tmp_path)
    run(TinyHost(tmp_path), again)
    assert again.taken["round"] == 1
    assert torch.equal(again.taken["rows"], torch.arange(3))


def test_all_hooks_run_on_the_thread_that_launched(parties: tuple[Any, Any]) -> None:
    for each in parties:
        assert each.threads == {each.launched_on}


@pytest.mark.slow
def test_every_hook_has_a_test_named_after_it() -> None:
    names = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert len(HOOKS) >= 18
    assert not {
        hook for hook in HOOKS if not any(each.startswith(f"test_{hook}_") for each in names)
    }


IMPORTS = {
    "heterofed": [
        "HeteroNNHostScheduler",
        "HeteroNNCollaboratorScheduler",
        "DataChecker",
        "register_metrics",
        "Batch",
        "logger",
        "TaskFailed",
        "__version__",
    ],
    "heterofed.hetero_nn": ["HeteroNNHostScheduler", "HeteroNNCollaboratorScheduler"],
    "heterofed.hetero_nn.psi": ["RSAPSIInitiatorScheduler", "RSAPSICollaboratorScheduler"],
    "heterofed.scheduler": [
        "Scheduler",
        "DataChecker",
        "register_metrics",
        "ConfigError",
        "TaskFailed",
    ],
    "psi": ["requester", "signer", "Budget", "PSIError"],
}


@pytest.mark.parametrize("module", IMPORTS)
def test_import_path(module: str) -> None:
    found = importlib.import_module(module)
    assert all(hasattr(found, name) for name in IMPORTS[module])


def test_abstract_hooks_are_named_where_they_are_missing() -> None:
    class Bare(HeteroNNHostScheduler):
        def make_feature_model(self) -> nn.Module:
            return nn.Identity()

    with pytest.raises(TypeError) as caught:
        Bare("alice")  # type: ignore[abstract]
    for hook in ("load_local_ids", "train_a_batch", "make_infer_model", "iterate_test_feature"):
        assert hook in str(caught.value)
    assert "make_feature_model" not in str(caught.value)
