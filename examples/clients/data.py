"""MNIST as whole images, and the part of each client."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from examples.mnist_split.data import load_halves


@dataclass(frozen=True)
class Images:
    """Images [n, 1, 28, 28], normalised, and their digits [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def load_mnist(root: Path, limit: tuple[int, int] | None = None) -> tuple[Images, Images]:
    """Return the training and the test images; fetch MNIST if it is not there yet.

    Args:
        root: the folder that has, or gets, `MNIST/raw/`.
        limit: only the first so many (training, test) images, for short runs.
    """
    left, right = (load_halves(root, side, labels=True, limit=limit) for side in ("left", "right"))
    images, labels = torch.cat([left.images, right.images], dim=3), left.labels
    if labels is None:
        raise RuntimeError("the labels were asked for")
    first = sum(each.startswith("train-") for each in left.ids)
    return (
        Images(images[:first], labels[:first]),
        Images(images[first:], labels[first:]),
    )


def part(whole: Images, number: int, parts: int) -> Images:
    """Return every `parts`-th image from `number` on, so that no image is at two clients."""
    return Images(whole.images[number::parts], whole.labels[number::parts])
