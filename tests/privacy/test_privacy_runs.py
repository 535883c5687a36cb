"""What the report says of real runs, and what the defences change of what travels."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn, optim

from heterofed import Batch, TaskResult
from heterofed.errors import ConfigError, TaskAborted
from heterofed.events import RoundEnded
from heterofed.privacy.dpsgd import DPSGD
from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.gradient_defences import MaxNorm
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.marvell import Marvell
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows, run

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


class Host(TinyHost):
    """Ids with each batch; a batch size that leaves no batch of one row."""

    batch = 20

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), self.batch):
            ids = train_ids[start : start + self.batch]
            labels = torch.tensor([float(int(each[3:]) % 2) for each in ids])
            yield Batch(feature_model(rows(ids, 2, 0)), labels, ids)


class Collaborator(TinyCollaborator):
    """Keeps what it sends, and the gradients that it learns from."""

    batch = 20

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.kept: list[tuple[Tensor, Tensor]] = []

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), self.batch):
            ids = train_ids[start : start + self.batch]
            yield Batch(feature_model(rows(ids, 3, 7)), ids=ids)

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        self.kept.append((features.detach().clone(), gradients.clone()))
        super().update_feature_model(features, gradients)


def trained(host: Any, collaborator: Any) -> tuple[TaskResult, TaskResult]:
    outcomes = run(host, collaborator)
    for each in outcomes:
        if isinstance(each, BaseException):
            raise each
    return outcomes[0], outcomes[1]


def table(result: TaskResult, name: str) -> list[dict[str, str]]:
    with result.metrics[name].open(newline="") as file:
        return list(csv.DictReader(file))


# -- the report ----------------------------------------------------------------------------------


def test_a_run_says_what_it_gave_away(tmp_path: Path) -> None:
    bank, shop = trained(Host(tmp_path), Collaborator(tmp_path))
    found = {row["attack"]: row for row in table(bank, "leakage")}
    assert set(found) == {"norm", "cosine", "spectral"}
    # One logit: all gradients lie on one line, and the label is the sign.
    assert float(found["cosine"]["value"]) == 1.0
    assert found["cosine"]["party"] == "bob"
    (line,) = bank.leaks
    assert line.endswith(": bob can read the labels")
    inputs = {row["attack"]: row for row in table(shop, "leakage")}
    assert float(inputs["ridge"]["value"]) > 0.99  # 3 columns through a linear layer of 4
    assert float(inputs["distance_correlation"]["value"]) > 0.7
    assert shop.leaks[0].endswith("the Host can read the inputs")
    assert line in bank.summary()
    assert bank.to_dict()["leaks"] == bank.leaks


def test_findings_do_not_pile_up_over_the_rounds(tmp_path: Path) -> None:
    held: list[int] = []

    def note(event: object) -> None:
        if isinstance(event, RoundEnded) and host._heterofed.run is not None:
            state = host._heterofed.run.state
            held.append(len(state.leaks) + len(state.new_leaks))

    host = Host(tmp_path, max_rounds=5, leak_report="full", callbacks=[note])
    bank, _ = trained(host, Collaborator(tmp_path))
    assert len(table(bank, "leakage")) >= 5 * 3
    assert held == [1 + 3] * 5  # the worst one of bob, and one of each attack of this round


def test_the_full_report_and_none(tmp_path: Path) -> None:
    bank, shop = trained(
        Host(tmp_path, leak_report="full"), Collaborator(tmp_path, leak_report="off")
    )
    assert {row["round"] for row in table(bank, "leakage")} == {"1", "2"}
    assert {int(row["samples"]) for row in table(bank, "leakage")} == {2}  # both batches
    assert "leakage" not in shop.metrics
    assert shop.leaks == []


def test_the_report_changes_nothing_of_the_training(tmp_path: Path) -> None:
    weights = []
    for number, effort in enumerate(("full", "off")):
        host = Host(tmp_path / str(number), leak_report=effort)
        shop = Collaborator(tmp_path / str(number), leak_report=effort)
        trained(host, shop)
        models = (host.infer_model, host.feature_model, shop.feature_model)
        weights.append(
            torch.cat([nn.utils.parameters_to_vector(each.parameters()) for each in models])
        )
    assert torch.equal(weights[0], weights[1])


def test_labels_that_are_no_classes_are_measured_as_amounts(tmp_path: Path) -> None:
    class Regression(Host):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for batch in super().iterate_train_feature(feature_model, train_ids):
                yield Batch(batch.features, batch.labels * 0.7, batch.ids)

    bank, _ = trained(Regression(tmp_path), Collaborator(tmp_path))
    assert set(pd.read_csv(bank.metrics["leakage"])["attack"]) == {"regression"}


# -- gradients and labels ------------------------------------------------------------------------


def test_marvell_changes_what_travels_and_what_leaks(tmp_path: Path) -> None:
    plain, hidden = Collaborator(tmp_path / "plain"), Collaborator(tmp_path / "hidden")
    trained(Host(tmp_path / "plain"), plain)
    defended = Host(tmp_path / "hidden", gradient_defence=Marvell(20.0), leak_report="full")
    bank, _ = trained(defended, hidden)
    # The first batch: same weights, same features, another gradient.
    assert torch.equal(plain.kept[0][0], hidden.kept[0][0])
    assert not torch.allclose(plain.kept[0][1], hidden.kept[0][1])
    leaks = [float(row["value"]) for row in table(bank, "leakage") if row["attack"] == "cosine"]
    assert min(leaks) < 0.9


def test_gradient_defences_refuse_what_they_cannot_do(tmp_path: Path) -> None:
    class Regression(Host):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for batch in super().iterate_train_feature(feature_model, train_ids):
                yield Batch(batch.features, batch.labels * 0.7, batch.ids)

    outcomes = run(Regression(tmp_path, gradient_defence=MaxNorm()), Collaborator(tmp_path))
    assert isinstance(outcomes[0], ConfigError)
    assert "class numbers" in str(outcomes[0])
    assert isinstance(outcomes[1], TaskAborted)
    for settings, words in (
        ({"gradient_defence": MaxNorm(), "early_gradients": True}, "early ones travel"),
        ({"loss_reduction": "mean", "early_gradients": True}, "a second backward"),
        ({"leak_report": "some"}, "leak_report"),
        ({"loss_reduction": "none"}, "loss_reduction"),
        ({"weights_defence": DPSGD(1.0, 1.0, batch_size=2, rows=4)}, "needs loss_reduction"),
    ):
        with pytest.raises(ConfigError, match=words):
            Host(tmp_path, **settings).launch_task("tiny")
    with pytest.raises(ConfigError, match="leak_report"):
        Collaborator(tmp_path, leak_report="some").launch_task("tiny")


def test_label_dp_turns_the_same_labels_in_every_round(tmp_path: Path) -> None:
    class Watching(Host):
        seen: list[list[float]]

        def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
            self.seen.append(labels.tolist())
            return super().train_a_batch(feature_projection, labels)

    respond = RandomisedResponse(0.5, secret=bytes(32))
    host = Watching(tmp_path, label_dp=respond, max_rounds=2)
    host.seen = []
    bank, _ = trained(host, Collaborator(tmp_path))
    half = len(host.seen) // 2
    assert host.seen[:half] == host.seen[half:]
    true = [float(int(each[3:]) % 2) for each in host.train_ids]
    used = [each for batch in host.seen[:half] for each in batch]
    assert 0 < sum(a != b for a, b in zip(true, used, strict=True)) < len(true)
    assert [row["eps_labels"] for row in table(bank, "privacy")] == ["0.5", "0.5"]
    outcomes = run(TinyHost(tmp_path, label_dp=respond), TinyCollaborator(tmp_path))
    assert "Batch(features, labels, ids)" in str(outcomes[0])


@pytest.mark.parametrize("seed", [None, 3])
def test_a_run_that_begins_anew_turns_the_same_labels(seed: int | None, tmp_path: Path) -> None:
    """A Collaborator that says it holds nothing makes the Host begin anew, as often as it likes."""
    answers: list[Any] = []

    class Watching(Host):
        def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
            answers[-1].append(labels.tolist())
            return super().train_a_batch(feature_projection, labels)

    for number in range(3):
        answers.append([])
        results = tmp_path / str(number)  # nor does it help to look elsewhere
        host = Watching(results, label_dp=RandomisedResponse(0.5), max_rounds=1, seed=seed)
        trained(host, Collaborator(results))
    assert answers[0] == answers[1] == answers[2]


# -- embeddings ----------------------------------------------------------------------------------


def test_clipped_embeddings_travel_and_epsilon_grows(tmp_path: Path) -> None:
    defence = ClippedGaussian(clip=0.01, noise_multiplier=1e-3)
    shop = Collaborator(tmp_path, embedding_defence=defence)
    _, result = trained(Host(tmp_path), shop)
    assert max(float(sent.norm(dim=1).max()) for sent, _ in shop.kept) < 0.0101
    epsilons = [float(row["eps_embeddings"]) for row in table(result, "privacy")]
    assert epsilons == [pytest.approx(defence.epsilon(each), rel=1e-9) for each in (1, 2)]
    assert all(math.isnan(float(row["eps_weights"])) for row in table(result, "privacy"))


def test_decorrelation_adds_to_the_gradient(tmp_path: Path) -> None:
    plain = Collaborator(tmp_path / "plain")
    pulled = Collaborator(tmp_path / "pulled", embedding_defence=Decorrelation(3.0))
    for name, shop in (("plain", plain), ("pulled", pulled)):
        trained(Host(tmp_path / name), shop)
    (features, before), (same, after) = plain.kept[0], pulled.kept[0]
    assert torch.equal(features, same)
    ids = pulled.train_ids[:20]
    slope = Decorrelation(3.0).gradient(rows(ids, 3, 7), features)
    assert torch.allclose(after, before + slope, atol=1e-6)


def test_decorrelation_needs_to_see_the_inputs(tmp_path: Path) -> None:
    class Aside(Collaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for start in range(0, len(train_ids), self.batch):
                ids = train_ids[start : start + self.batch]
                yield feature_model.forward(rows(ids, 3, 7))  # past the hooks of the module

    outcomes = run(Host(tmp_path), Aside(tmp_path, embedding_defence=Decorrelation(1.0)))
    assert "needs the inputs" in str(outcomes[1])


# -- weights -------------------------------------------------------------------------------------


class PoissonHost(Host):
    """Batches drawn anew from all ids; a mean that is 0 for an empty batch."""

    size = 4

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.poisson_batches(train_ids, self.size):
            labels = torch.tensor([float(int(each[3:]) % 2) for each in ids])
            yield Batch(feature_model(rows(ids, 2, 0)), labels, ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        output = self.infer_model(torch.cat(list(feature_projection.values()), dim=1))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(output, labels, reduction="sum")
        loss = loss / max(1, len(labels))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def make_infer_model(self) -> nn.Module:
        return nn.Linear(7, 1)


class PoissonCollaborator(Collaborator):
    size = 4

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.sizes: list[int] = []

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.poisson_batches(train_ids, self.size):
            self.sizes.append(len(ids))
            yield Batch(feature_model(rows(ids, 3, 7)), ids=ids)


def private(**settings: Any) -> DPSGD:
    return DPSGD(1.0, 0.5, **{"batch_size": 4, "others": [1.0], **settings})


def test_dp_sgd_at_both_parties_with_poisson_batches(tmp_path: Path) -> None:
    sampling = {"poisson": True, "batch_size": 1}
    defences = private(**sampling), private(**sampling)
    host = PoissonHost(tmp_path, loss_reduction="mean", weights_defence=defences[0], max_rounds=6)
    shop = PoissonCollaborator(tmp_path, weights_defence=defences[1])
    shop.size = host.size = 1
    bank, store = trained(host, shop)
    assert 0 in shop.sizes  # an empty batch is stepped on, too
    assert defences[0].steps == defences[1].steps == 6 * len(host.train_ids)
    for result in (bank, store):
        epsilons = [float(row["eps_weights"]) for row in table(result, "privacy")]
        assert epsilons == sorted(epsilons)
        assert 0 < epsilons[0] < epsilons[-1] < 50
    state = torch.load(store.models["feature_model"], weights_only=True)
    assert set(state) == {"weight", "bias"}
    assert all(bool(torch.isfinite(each).all()) for each in state.values())


def test_dp_sgd_without_clipping_and_noise_is_the_plain_run(tmp_path: Path) -> None:
    def weights(shop: TinyCollaborator, folder: str, **settings: Any) -> Tensor:
        host = TinyHost(tmp_path / folder, **settings)
        host.batch = shop.batch = 1000  # one batch a round, of the size that DP-SGD expects
        trained(host, shop)
        return nn.utils.parameters_to_vector(shop.feature_model.parameters()).detach()

    plain = TinyCollaborator(tmp_path / "plain")
    wanted = weights(plain, "plain")
    size = len(plain.train_ids)
    free = DPSGD(1e-9, 1e6, batch_size=size, rows=size, others=[1e-9])
    found = weights(
        TinyCollaborator(tmp_path / "dp", weights_defence=free), "dp", loss_reduction="mean"
    )
    assert free.steps == 2
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not torch.equal(found, wanted)


def test_dp_sgd_is_refused_where_it_would_not_hold(tmp_path: Path) -> None:
    outcomes = run(
        TinyHost(tmp_path / "a"), TinyCollaborator(tmp_path / "a", weights_defence=private())
    )
    assert isinstance(outcomes[1], ConfigError)
    assert "loss_reduction='mean' or 'sum'" in str(outcomes[1])

    class Mixing(TinyHost):
        def make_infer_model(self) -> nn.Module:
            return nn.Sequential(nn.BatchNorm1d(7), nn.Linear(7, 1))

        def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
            return optim.SGD(infer_model.parameters(), 0.1)

    outcomes = run(
        Mixing(tmp_path / "b", loss_reduction="mean"),
        TinyCollaborator(tmp_path / "b", weights_defence=private()),
    )
    assert isinstance(outcomes[0], ConfigError)
    assert "BatchNorm1d" in str(outcomes[0])
    ahead = TinyHost(tmp_path / "c", loss_reduction="mean", max_staleness=1)
    outcomes = run(ahead, TinyCollaborator(tmp_path / "c", weights_defence=private()))
    assert "max_staleness=0" in str(outcomes[1])
