"""Host script as an AlphaMed user has it, with the package name replaced; started by the tests.

Rows, rounds, batch size and DataLoader workers come from the environment: by default, the whole of
MNIST.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Subset

from heterofed import logger
from heterofed.hetero_nn import HeteroNNHostScheduler
from heterofed.hetero_nn.psi import RSAPSIInitiatorScheduler  # noqa: F401 - such scripts have it
from heterofed.scheduler import ConfigError, DataChecker, TaskFailed, register_metrics

TASK_ID = "alphamed_mnist"
DATA_DIR = os.environ["MNIST_DIR"]
TRAIN_ROWS = int(os.environ.get("TRAIN_ROWS", "60000"))
TEST_ROWS = int(os.environ.get("TEST_ROWS", "10000"))
ROUNDS = int(os.environ.get("ROUNDS", "1"))
BATCH_SIZE = int(os.environ.get("BATCH_SIZE", "128"))
WORKERS = int(os.environ.get("WORKERS", "0"))
START_METHOD = os.environ.get("START_METHOD")


class LeftNet(nn.Module):
    """[rows, 1, 28, 14] -> [rows, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(1, 10, kernel_size=(5, 3))
        self.wide = nn.Conv2d(10, 20, kernel_size=5)
        self.drop = nn.Dropout2d()
        self.hidden = nn.Linear(80, 50)
        self.out = nn.Linear(50, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.narrow(images), 2))
        x = F.relu(F.max_pool2d(self.drop(self.wide(x)), 2))
        x = F.dropout(F.relu(self.hidden(x.view(-1, 80))), training=self.training)
        return self.out(x)  # type: ignore[no-any-return]


class TopNet(nn.Module):
    """[rows, 20] -> [rows, 10] log-probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(20, 10)

    def forward(self, fused: Tensor) -> Tensor:
        return F.log_softmax(self.linear(fused), dim=-1)


def mnist(train: bool) -> Any:
    """MNIST, or its first rows."""
    whole = torchvision.datasets.MNIST(
        root=DATA_DIR,
        train=train,
        download=True,
        transform=torchvision.transforms.Compose(
            [
                torchvision.transforms.ToTensor(),
                torchvision.transforms.Normalize((0.1307,), (0.3081,)),
            ]
        ),
    )
    return Subset(whole, range(TRAIN_ROWS if train else TEST_ROWS))


class MnistChecker(DataChecker):
    def verify_data(self) -> bool:
        image, label = mnist(train=True)[0]
        logger.info("first image %s, label %s", tuple(image.shape), label)
        return tuple(image.shape) == (1, 28, 28)


class LeftHost(HeteroNNHostScheduler):
    def __init__(
        self,
        feature_key: str,
        batch_size: int,
        data_dir: str,
        name: str | None = None,
        max_rounds: int = 0,
        calculation_timeout: int = 300,
        log_rounds: int = 0,
    ) -> None:
        super().__init__(
            feature_key=feature_key,
            name=name,
            max_rounds=max_rounds,
            calculation_timeout=calculation_timeout,
            log_rounds=log_rounds,
        )
        self.batch_size = batch_size
        self.data_dir = data_dir
        self.seed = 42
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(self.seed)
        options: dict[str, Any] = {"batch_size": self.batch_size, "shuffle": False}
        if WORKERS:
            options |= {"num_workers": WORKERS, "multiprocessing_context": START_METHOD}
        self.train_loader = DataLoader(mnist(train=True), **options)
        self.test_loader = DataLoader(mnist(train=False), **options)

    def validate_context(self) -> None:
        super().validate_context()
        if len(self.train_loader) == 0 or len(self.test_loader) == 0:
            raise ConfigError(f"no images in {self.data_dir}")

    def load_local_ids(self) -> list[str]:
        return [str(number) for number in range(1, TRAIN_ROWS + TEST_ROWS + 1)]

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        numbers = sorted(int(each) for each in id_intersection)
        train_ids = {str(number - 1) for number in numbers if number <= TRAIN_ROWS}
        test_ids = {str(number - 1 - TRAIN_ROWS) for number in numbers if number > TRAIN_ROWS}
        logger.info("%d samples to train on, %d to test on", len(train_ids), len(test_ids))
        return train_ids, test_ids

    def make_feature_model(self) -> nn.Module:
        return LeftNet().to(self.device)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(feature_model.parameters(), lr=0.01, momentum=0.9)

    def make_infer_model(self) -> nn.Module:
        return TopNet().to(self.device)

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(infer_model.parameters(), lr=0.01, momentum=0.9)

    def left_half(self, images: Tensor) -> Tensor:
        return images[:, :, :, :14].to(self.device)

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        assert len(train_ids) == TRAIN_ROWS, "train samples are missing"
        for images, labels in self.train_loader:
            yield feature_model(self.left_half(images)), labels.to(self.device)

    def iterate_test_feature(
        self, feature_model: nn.Module, test_ids: list[str]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        assert len(test_ids) == TEST_ROWS, "test samples are missing"
        for images, labels in self.test_loader:
            yield feature_model(self.left_half(images)), labels.to(self.device)

    def fuse(self, projection: dict[str, Tensor]) -> Tensor:
        return torch.concat((projection["demo_host"], projection["demo_collaborator"]), dim=1)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> None:
        self.optimizer.zero_grad()
        loss = F.nll_loss(self.infer_model(self.fuse(feature_projection)), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    @register_metrics(name="timer", keys=["run_time"])
    @register_metrics(name="test_results", keys=["average_loss", "accuracy", "correct_rate"])
    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        began = time.time()
        loss_sum: Any = 0
        correct = 0
        for projection, labels in zip(batched_feature_projections, batched_labels, strict=True):
            scores = self.infer_model(self.fuse(projection))
            loss_sum += F.nll_loss(scores, labels, reduction="sum")
            guesses = scores.max(1, keepdim=True)[1]
            correct += guesses.eq(labels.view_as(guesses)).sum().item()
        accuracy = correct / TEST_ROWS
        self.get_metrics("timer").append_metrics_item({"run_time": time.time() - began})
        self.get_metrics("test_results").append_metrics_item(
            {
                "average_loss": loss_sum / TEST_ROWS,
                "accuracy": accuracy,
                "correct_rate": 100.0 * accuracy,
            }
        )
        logger.info("round %d: accuracy %.4f", self.current_round, accuracy)

    def is_task_finished(self) -> bool:
        return self._is_reach_max_rounds()


if not MnistChecker(task_id=TASK_ID).execute_verification():
    logger.error("the data are not what they should be")

scheduler = LeftHost(
    feature_key="demo_host",
    batch_size=BATCH_SIZE,
    data_dir=DATA_DIR,
    name="left",
    max_rounds=ROUNDS,
    calculation_timeout=300,
    log_rounds=1,
)
try:
    scheduler.launch_task(task_id=TASK_ID)
except TaskFailed as error:
    logger.error("the task failed: %s", error)
    raise
