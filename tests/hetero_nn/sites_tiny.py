"""A bank with labels, a lab, and a shop whose customers are divided among sites: small models."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heterofed import Batch, HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.compute.streams import random_stream

IDS = [f"p{number:03}" for number in range(90)]
WIDTH, CUT, BATCH, ROUNDS = 3, 4, 8, 2
F64 = torch.float64


def table(party: str) -> dict[str, Tensor]:
    """The columns of a role for all people, float64."""
    with random_stream(5, party):
        rows = torch.randn(len(IDS), WIDTH, dtype=F64)
    return dict(zip(IDS, rows, strict=True))


def labels() -> dict[str, Tensor]:
    with random_stream(5, "labels"):
        return dict(zip(IDS, torch.randint(0, 2, (len(IDS),)), strict=True))


def site_of(name: str, sites: Sequence[str]) -> str:
    """Rows lie unevenly: the last site has about one in ten."""
    drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return sites[-1] if drawn > 0.9 else sites[int(drawn / 0.9 * (len(sites) - 1))]


def make(seed: int, inputs: int = WIDTH, outputs: int = CUT) -> nn.Sequential:
    with random_stream(seed, "model"):
        return nn.Sequential(
            nn.Linear(inputs, 5, dtype=F64), nn.Tanh(), nn.Linear(5, outputs, dtype=F64)
        )


def optimizer(model: nn.Module, kind: str) -> torch.optim.Optimizer:
    if kind == "adam":
        return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def split(ids: Any) -> tuple[set[str], set[str]]:
    """The last ten are for tests; no site could do this alone."""
    return set(sorted(ids)[:-10]), set(sorted(ids)[-10:])


class Shared:
    """The hooks that all parties share."""

    columns: Mapping[str, Tensor]
    kind = "sgd"
    model_seed = 0
    batches: Any
    pause = 0.0
    current_round: int

    def on_round_end(self) -> None:
        print(f"ended round {self.current_round}", flush=True)

    def load_local_ids(self) -> list[str]:
        return list(self.columns)

    def make_feature_model(self) -> nn.Module:
        return make(self.model_seed)

    def make_feature_optimizer(self, feature_model: nn.Module) -> torch.optim.Optimizer:
        return optimizer(feature_model, self.kind)

    def features(self, feature_model: nn.Module, ids: list[str]) -> Iterator[Any]:
        for some in self.batches(ids):
            time.sleep(self.pause)
            yield Batch(feature_model(torch.stack([self.columns[each] for each in some])), ids=some)

    def iterate_train_feature(self, feature_model: nn.Module, train_ids: list[str]) -> Any:
        return self.features(feature_model, train_ids)

    def iterate_test_feature(self, feature_model: nn.Module, test_ids: list[str]) -> Any:
        return self.features(feature_model, test_ids)


class Party(Shared, HeteroNNCollaboratorScheduler):
    """A lab, or a site of the shop."""

    def __init__(
        self,
        folder: Path,
        role: str,
        ids: Sequence[str] = IDS,
        *,
        seed: int = 3,
        kind: str = "sgd",
        **settings: Any,
    ) -> None:
        given = {"results_dir": folder, "join_timeout": 60, "leak_report": "off", **settings}
        super().__init__(role, seed=seed, **given)
        rows = table(role)
        self.columns, self.kind, self.model_seed = {each: rows[each] for each in ids}, kind, seed


class Bank(Shared, HeteroNNHostScheduler):
    """The Host; its loss is a mean, and it writes down every loss and what it tested."""

    def __init__(self, folder: Path, *, kind: str = "sgd", **settings: Any) -> None:
        given = {
            "results_dir": folder,
            "join_timeout": 60,
            "leak_report": "off",
            "max_rounds": ROUNDS,
            "batch_size": BATCH,
            "psi_protocol": "ecdh",
            **settings,
        }
        super().__init__("bank", seed=1, **given)
        self.columns, self.labels, self.kind, self.model_seed = table("bank"), labels(), kind, 1
        self.losses: list[float] = []
        self.tested: list[Tensor] = []

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        return split(id_intersection)

    def iterate_train_feature(self, feature_model: nn.Module, train_ids: list[str]) -> Any:
        return self.labelled(feature_model, train_ids)

    def iterate_test_feature(self, feature_model: nn.Module, test_ids: list[str]) -> Any:
        return self.labelled(feature_model, test_ids)

    def labelled(self, feature_model: nn.Module, ids: list[str]) -> Iterator[Any]:
        for batch in self.features(feature_model, ids):
            yield Batch(batch.features, torch.stack([self.labels[i] for i in batch.ids]), batch.ids)

    def make_infer_model(self) -> nn.Module:
        return make(9, CUT * self.roles, 2)

    @property
    def roles(self) -> int:
        expected = self._heterofed.settings
        return 1 + len({name.split(".")[0] for name in expected.collaborators})  # type: ignore

    def make_infer_optimizer(self, infer_model: nn.Module) -> torch.optim.Optimizer:
        return optimizer(infer_model, self.kind)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        fused = torch.cat(list(feature_projection.values()), dim=1)
        loss = nn.functional.cross_entropy(self.infer_model(fused), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.losses.append(float(loss.detach()))
        return loss

    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        self.tested = [torch.cat(list(p.values()), dim=1) for p in batched_feature_projections]


def parties(
    folder: Path,
    sites: Sequence[str],
    *,
    kind: str = "sgd",
    lab: bool = True,
    bank_class: type[Bank] | None = None,
    **settings: Any,
) -> tuple[Bank, list[Party]]:
    """The bank, the lab and the sites, whose customers are different people."""
    roles = [*(["lab"] if lab else []), "shop"]
    made = bank_class or Bank
    bank = made(folder, kind=kind, collaborators=roles, sites={"shop": list(sites)}, **settings)
    others = [Party(folder, "lab", kind=kind, seed=2)] if lab else []
    for number, site in enumerate(sites):
        own = [each for each in IDS if site_of(each, sites) == site]
        others.append(Party(folder, "shop", own, kind=kind, seed=3 + number, site=site))
    return bank, others


def joined(
    order: Sequence[Sequence[str]], kind: str = "sgd", *, lab: bool = True, leaves_out: int = 0
) -> tuple[list[float], dict[str, nn.Module]]:
    """The same model in one process, in plain torch.

    `order` has the train ids of each round. In every `leaves_out`-th batch the loss leaves out the
    shop.
    """
    keys = {"bank": 1, **({"lab": 2} if lab else {}), "shop": 3}
    halves = {key: make(seed) for key, seed in keys.items()}
    top = make(9, CUT * len(keys), 2)
    steps = [optimizer(each, kind) for each in (*halves.values(), top)]
    columns, truth = {key: table(key) for key in keys}, labels()
    losses: list[float] = []
    for ids in order:
        for start in range(0, len(ids), BATCH):
            some = ids[start : start + BATCH]
            for each in steps:
                each.zero_grad()
            parts = [halves[k](torch.stack([columns[k][i] for i in some])) for k in keys]
            if leaves_out and len(losses) % leaves_out == leaves_out - 1:
                parts[-1] = torch.zeros_like(parts[-1])
            target = torch.stack([truth[i] for i in some])
            loss = nn.functional.cross_entropy(top(torch.cat(parts, dim=1)), target)
            loss.backward()  # type: ignore[no-untyped-call]
            for each in steps:
                each.step()
            losses.append(float(loss.detach()))
    return losses, {**halves, "infer": top}


def averaged(
    order: Sequence[Sequence[str]], sites: Sequence[str], every: int, kind: str = "sgd"
) -> tuple[list[float], dict[str, nn.Module]]:
    """FedAvg in plain torch: each site steps alone, and weights are averaged by rows."""
    shops = {site: make(3) for site in sites}
    bank, lab, top = make(1), make(2), make(9, CUT * 3, 2)
    steps = {key: optimizer(each, kind) for key, each in shops.items()}
    others = [optimizer(each, kind) for each in (bank, lab, top)]
    truth, losses = labels(), list[float]()
    for ids in order:
        counts = dict.fromkeys(sites, 0)
        for number, start in enumerate(range(0, len(ids), BATCH)):
            some = ids[start : start + BATCH]
            owners = [site_of(each, sites) for each in some]
            for each in (*steps.values(), *others):
                each.zero_grad()
            inputs = {key: torch.stack([table(key)[i] for i in some]) for key in ("bank", "lab")}
            shop = [shops[at](table("shop")[i]) for i, at in zip(some, owners, strict=True)]
            parts = [bank(inputs["bank"]), lab(inputs["lab"]), torch.stack(shop)]
            target = torch.stack([truth[i] for i in some])
            loss = nn.functional.cross_entropy(top(torch.cat(parts, dim=1)), target)
            loss.backward()  # type: ignore[no-untyped-call]
            for each in others:
                each.step()
            for site in set(owners):
                steps[site].step()
                counts[site] += owners.count(site)
            losses.append(float(loss.detach()))
            if (number + 1) % every == 0 or start + BATCH >= len(ids):
                _average(shops, counts)
                counts = dict.fromkeys(sites, 0)
    return losses, {"bank": bank, "lab": lab, "shop": shops[sites[0]], "infer": top}


def _average(models: Mapping[str, nn.Module], counts: Mapping[str, int]) -> None:
    states = {key: each.state_dict() for key, each in models.items()}
    for name in next(iter(states.values())):
        weighed = [states[key][name] * counts[key] for key in models]
        mean = torch.stack(weighed).sum(dim=0) / sum(counts.values())
        for each in states.values():
            each[name].copy_(mean)


def main() -> None:
    """One party as a process: `bank`, `lab`, or the name of a site."""
    role, results, *what = sys.argv[1:]
    waits = 60 if "patient" in what else 0
    settings: dict[str, Any] = {"max_rounds": 4, "shuffle": True, "wait_for_peers": waits}
    bank, others = parties(Path(results), ("north", "south"), **settings)
    names: dict[str, Any] = {"bank": bank, **{each.feature_key: each for each in others}}
    names[role].pause = 0.05 if "slow" in what else 0.0
    names[role].launch_task("sites")


if __name__ == "__main__":
    main()
