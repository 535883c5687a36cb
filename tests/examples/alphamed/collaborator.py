"""Collaborator script as an AlphaMed user has it, with the package name replaced."""

import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Subset

from heterofed import logger
from heterofed.hetero_nn import HeteroNNCollaboratorScheduler
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler  # noqa: F401 - such scripts have it

TASK_ID = "alphamed_mnist"
DATA_DIR = os.environ["MNIST_DIR"]
TRAIN_ROWS = int(os.environ.get("TRAIN_ROWS", "60000"))
TEST_ROWS = int(os.environ.get("TEST_ROWS", "10000"))
BATCH_SIZE = int(os.environ.get("BATCH_SIZE", "128"))


class RightNet(nn.Module):
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


class RightCollaborator(HeteroNNCollaboratorScheduler):
    def __init__(
        self,
        feature_key: str,
        batch_size: int,
        data_dir: str,
        name: str | None = None,
        schedule_timeout: int = 30,
        is_feature_trainable: bool = True,
    ) -> None:
        super().__init__(
            feature_key=feature_key,
            name=name,
            schedule_timeout=schedule_timeout,
            is_feature_trainable=is_feature_trainable,
        )
        self.batch_size = batch_size
        self.data_dir = data_dir
        self.seed = 7
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(self.seed)
        self.train_loader = self.loader(train=True, rows=TRAIN_ROWS)
        self.test_loader = self.loader(train=False, rows=TEST_ROWS)

    def loader(self, train: bool, rows: int) -> DataLoader[Any]:
        whole = torchvision.datasets.MNIST(
            root=self.data_dir,
            train=train,
            download=True,
            transform=torchvision.transforms.Compose(
                [
                    torchvision.transforms.ToTensor(),
                    torchvision.transforms.Normalize((0.1307,), (0.3081,)),
                ]
            ),
        )
        part: Subset[Any] = Subset(whole, range(rows))
        return DataLoader(part, batch_size=self.batch_size, shuffle=False)

    def validate_context(self) -> None:
        super().validate_context()
        assert len(self.train_loader) > 0, "no images to train on"
        assert len(self.test_loader) > 0, "no images to test on"

    def load_local_ids(self) -> list[str]:
        return [str(number) for number in range(1, TRAIN_ROWS + TEST_ROWS + 1)]

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        numbers = sorted(int(each) for each in id_intersection)
        train_ids = {str(number - 1) for number in numbers if number <= TRAIN_ROWS}
        test_ids = {str(number - 1 - TRAIN_ROWS) for number in numbers if number > TRAIN_ROWS}
        return train_ids, test_ids

    def make_feature_model(self) -> nn.Module:
        return RightNet().to(self.device)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.SGD(feature_model.parameters(), lr=0.01, momentum=0.9)

    def right_half(self, images: Tensor) -> Tensor:
        return images[:, :, :, 14:].to(self.device)

    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Tensor]:
        assert len(train_ids) == TRAIN_ROWS, "train samples are missing"
        for number, (images, _) in enumerate(self.train_loader):
            features = feature_model(self.right_half(images))
            if number == 0:
                logger.info("first train batch: %d rows", len(features))
            yield features

    def iterate_test_feature(
        self, feature_model: nn.Module, test_ids: list[str]
    ) -> Iterator[Tensor]:
        assert len(test_ids) == TEST_ROWS, "test samples are missing"
        for images, _ in self.test_loader:
            yield feature_model(self.right_half(images))


scheduler = RightCollaborator(
    feature_key="demo_collaborator", batch_size=BATCH_SIZE, data_dir=DATA_DIR, name="right"
)
scheduler.launch_task(task_id=TASK_ID)
