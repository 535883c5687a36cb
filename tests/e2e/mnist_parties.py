"""One party of a small real MNIST task, as a process of its own: used by the end-to-end tests.

    python -m tests.e2e.mnist_parties host|collaborator TASK DATA RESULTS DTYPE

Records every batch's loss, and leaves models in the results folder. `joined` is the same training
as one model in one process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from examples.mnist_split.collaborator import MnistCollaborator
from examples.mnist_split.data import load_halves
from examples.mnist_split.host import MnistHost
from examples.mnist_split.nets import HalfNet, TopNet
from heterofed.compute.streams import random_stream

SEED, ROUNDS, BATCH = 11, 2, 128
LIMIT = (1000, 200)  # the last train batch has 104 rows
HOST, COLLABORATOR = "demo_host", "demo_collaborator"


class TypedHalf(nn.Module):
    """The half network in another dtype, fed with the example's float32 images."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = HalfNet().to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(self.dtype))  # type: ignore[no-any-return]


class DropTop(nn.Module):
    """An infer model that draws random numbers too."""

    def __init__(self) -> None:
        super().__init__()
        self.top = TopNet()

    def forward(self, x: Tensor) -> Tensor:
        return self.top(F.dropout(x, 0.2, self.training))  # type: ignore[no-any-return]


class Host(MnistHost):
    def __init__(self, dtype: torch.dtype, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.dtype = dtype
        self.losses: list[float] = []

    def make_feature_model(self) -> nn.Module:
        return TypedHalf(self.dtype)

    def make_infer_model(self) -> nn.Module:
        return DropTop().to(self.dtype)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Tensor:
        loss = super().train_a_batch(feature_projection, labels)
        self.losses.append(loss.item())
        return loss


class Collaborator(MnistCollaborator):
    def __init__(self, dtype: torch.dtype, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.dtype = dtype

    def make_feature_model(self) -> nn.Module:
        return TypedHalf(self.dtype)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.Adam(feature_model.parameters(), lr=0.003)


def joined(data: Path, dtype: torch.dtype) -> tuple[list[float], dict[str, dict[str, Tensor]]]:
    """The same model in one process, without any of heterofed but its random streams."""
    left, right = (load_halves(data, side, labels=True, limit=LIMIT) for side in ("left", "right"))
    with random_stream(SEED, HOST, "make_feature_model", 0, 0):
        half_left = TypedHalf(dtype)
    with random_stream(SEED, COLLABORATOR, "make_feature_model", 0, 0):
        half_right = TypedHalf(dtype)
    with random_stream(SEED, HOST, "make_infer_model", 0, 0):
        top = DropTop().to(dtype)
    optimizers = [
        optim.SGD(half_left.parameters(), lr=0.01, momentum=0.5),
        optim.SGD(top.parameters(), lr=0.01, momentum=0.1),
        optim.Adam(half_right.parameters(), lr=0.003),
    ]
    ids = sorted(each for each in left.ids if each.startswith("train-"))
    losses = []
    for round_number in range(1, ROUNDS + 1):
        for batch, start in enumerate(range(0, len(ids), BATCH)):
            rows = ids[start : start + BATCH]
            x_left, labels = left.rows(rows)
            x_right, _ = right.rows(rows)
            assert labels is not None
            for optimizer in optimizers:
                optimizer.zero_grad()
            with random_stream(SEED, HOST, "iterate_train_feature", round_number, batch):
                h_left = half_left(x_left)
            with random_stream(SEED, COLLABORATOR, "iterate_train_feature", round_number, batch):
                h_right = half_right(x_right)
            with random_stream(SEED, HOST, "train_a_batch", round_number, batch):
                loss = F.nll_loss(top(torch.cat([h_left, h_right], dim=1)), labels)
                loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
            losses.append(loss.item())
    models = {HOST: half_left, COLLABORATOR: half_right, "infer": top}
    return losses, {name: model.state_dict() for name, model in models.items()}


def main() -> None:
    role, task, data, results, dtype_name, *options = sys.argv[1:]
    early = "early" in options
    dtype = getattr(torch, dtype_name)
    settings: dict[str, Any] = {"results_dir": results, "join_timeout": 90, "seed": SEED}
    if role == "host":
        host = Host(
            dtype,
            Path(data),
            LIMIT,
            max_rounds=ROUNDS,
            early_gradients=early,
            **settings,
        )
        result = host.launch_task(task)
        torch.save(host.losses, result.folder / "losses.pt")
    else:
        Collaborator(dtype, Path(data), LIMIT, **settings).launch_task(task)


if __name__ == "__main__":
    main()
