"""What cannot work is refused by name before anything is done, or where it first shows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from heterofed import Batch, ConfigError, register_metrics
from heterofed import errors as e
from tests.e2e.tiny import TinyCollaborator, TinyHost, run

pytestmark = pytest.mark.usefixtures("home")

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"data_channel_timeout": 30}, "data_channel_timeout=30"),
    ({"data_channel_timeout": None}, "data_channel_timeout=None"),
    ({"feature_key": None}, "feature_key None"),
    ({"name": 5}, "name 5"),
    ({"seed": 2**70}, "seed="),
    ({"callbacks": [3]}, "callbacks: a int"),
    ({"is_feature_trainable": "no"}, "is_feature_trainable='no'"),
]
WRONG_AT_HOST: list[tuple[dict[str, Any], str]] = [
    ({"shuffle": "no"}, "shuffle='no'"),
    ({"early_gradients": 1}, "early_gradients=1"),
    ({"collaborators": ["alice"]}, "the Host itself"),
]


@pytest.mark.parametrize(("settings", "says"), WRONG + WRONG_AT_HOST)
def test_settings_of_a_host(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        TinyHost(tmp_path, **settings).launch_task("tiny")
    assert says in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("settings", "says"), WRONG)
def test_settings_of_a_collaborator(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        TinyCollaborator(tmp_path, **settings).launch_task("tiny")
    assert says in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "keys", "says"),
    [
        ("outbound", ["a"], "heterofed itself writes"),
        ("comm", ["a"], "heterofed itself writes"),
        ("q", "auc", "list of strings"),
        (3, ["a"], "3"),
    ],
)
def test_metrics_sets(name: Any, keys: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        register_metrics(name=name, keys=keys)


def test_a_split_that_no_encoding_can_carry(tmp_path: Path) -> None:
    host: Any = TinyHost(tmp_path)
    host.split_dataset = lambda ids: ({"\ud800"}, set(ids))
    at_host, _ = run(host, TinyCollaborator(tmp_path))
    assert type(at_host) is e.IdError
    assert "lone surrogate" in str(at_host)


def test_sparse_features(tmp_path: Path) -> None:
    class Sparse(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            yield torch.eye(4).to_sparse()

    _, at_collaborator = run(TinyHost(tmp_path), Sparse(tmp_path))
    assert type(at_collaborator) is e.FeatureError
    assert "to_dense" in str(at_collaborator)


def test_a_round_without_a_batch(tmp_path: Path) -> None:
    class Once(TinyHost):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            if self.current_round < 2:
                yield from super().iterate_train_feature(feature_model, train_ids)

        def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
            yield from super().iterate_train_feature(feature_model, test_ids)

    class Bob(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            if self.current_round < 2:
                yield from super().iterate_train_feature(feature_model, train_ids)

        def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
            yield from super().iterate_train_feature(feature_model, test_ids)

    at_host, at_collaborator = run(Once(tmp_path), Bob(tmp_path))
    assert type(at_host) is e.FeatureError
    assert "no batch in round 2" in str(at_host)
    assert isinstance(at_collaborator, e.FeatureError)


@pytest.mark.slow
def test_features_without_a_graph_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Detached(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for each in super().iterate_train_feature(feature_model, train_ids):
                yield each.detach()

    with caplog.at_level(logging.WARNING, "heterofed"):
        run(TinyHost(tmp_path), Detached(tmp_path))
    told = [each for each in caplog.messages if "has no graph" in each]
    assert len(told) == 1
    assert "is_feature_trainable=False" in told[0]


# -- labels of any form ---------------------------------------------------------------------


def two_kinds(form: str, labels: Tensor) -> Any:
    weights = torch.ones_like(labels)
    return {
        "dict": {"label": labels, "weight": weights},
        "tuple": (labels, weights),
        "list": [labels, weights],  # as a DataLoader makes it of tuples
        "rows": labels.tolist(),
        "array": labels.numpy(),
    }[form]


@pytest.mark.slow
@pytest.mark.parametrize("label_only", [False, True])
@pytest.mark.parametrize("form", ["dict", "tuple", "list", "rows", "array"])
def test_labels_may_have_any_form(form: str, label_only: bool, tmp_path: Path) -> None:
    class Host(TinyHost):
        def make_feature_model(self) -> Any:
            return None if label_only else super().make_feature_model()

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            model = feature_model or (lambda _: None)
            for features, labels in super().iterate_train_feature(model, train_ids):
                yield features, two_kinds(form, labels)  # (None, labels) where it is label-only

        def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
            model = feature_model or (lambda _: None)
            yield from TinyHost.iterate_train_feature(self, model, test_ids)

        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            if isinstance(labels, dict):
                labels = labels["label"]
            elif form in ("tuple", "list"):
                labels = labels[0]
            return super().train_a_batch(feature_projection, torch.as_tensor(labels))

    outcomes = run(Host(tmp_path, max_rounds=1), TinyCollaborator(tmp_path))
    for each in outcomes:
        if isinstance(each, BaseException):
            raise each


def test_labels_of_other_rows_than_the_features(tmp_path: Path) -> None:
    class Host(TinyHost):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for features, labels in super().iterate_train_feature(feature_model, train_ids):
                yield Batch(features, {"label": labels[:-1]})

    at_host, _ = run(Host(tmp_path), TinyCollaborator(tmp_path))
    assert type(at_host) is e.FeatureError
    assert "16 rows of features and 15 labels" in str(at_host)
