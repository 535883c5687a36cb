"""Attacks that reconstruct inputs from embeddings, to measure what a Host could learn of them.

The Collaborator runs them, because it knows its inputs. The attacker is assumed to know inputs and
embeddings of half of the rows (leaked, bought, its own customers) and is scored on the other half.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from heterofed.errors import ConfigError
from heterofed.privacy.rows import vectors


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """The share of the inputs' variance that an attack reconstructs.

    Attributes:
        r2: 1 - squared error / variance, over all columns. 1 means an exact reconstruction, and 0
            one that is no better than the mean.
        columns: the same for each column, float64 of shape [columns]; NaN for a constant column.
    """

    r2: float
    columns: Tensor


def table(tensor: Tensor) -> Tensor:
    """Return rows as float64 vectors of shape [rows, columns]."""
    return vectors(tensor.detach()).to(torch.float64)


def ridge_reconstruction(
    inputs: Tensor, embeddings: Tensor, *, penalty: float = 1e-3
) -> Reconstruction:
    """Reconstruct inputs by ridge regression on the embeddings.

    Args:
        inputs: the inputs, numbers of shape [rows, ...].
        embeddings: the embeddings of the same rows as they are sent, of shape [rows, ...].
        penalty: the ridge penalty, in units of the mean variance of an embedding's column.

    Raises:
        ConfigError: there are fewer than 4 rows, or the numbers of rows differ.
    """
    known, hidden = _halves(inputs, embeddings)
    shift = known[1].mean(0)
    design, target = known[1] - shift, known[0] - known[0].mean(0)
    gram = design.T @ design
    ridge = penalty * float(gram.diagonal().mean()) + 1e-12
    gram.diagonal().add_(ridge)
    weights = torch.linalg.solve(gram, design.T @ target)
    return _scored(hidden[0], known[0].mean(0) + (hidden[1] - shift) @ weights)


def decoder_reconstruction(
    inputs: Tensor, embeddings: Tensor, *, width: int = 64, steps: int = 300, seed: int = 0
) -> Reconstruction:
    """Reconstruct inputs by training a small decoder with one hidden layer.

    Args:
        inputs: the inputs, numbers of shape [rows, ...].
        embeddings: the embeddings of the same rows as they are sent, of shape [rows, ...].
        width: the width of the hidden layer.
        steps: the steps of Adam on all known rows at once.
        seed: the seed of the decoder's first weights.

    Raises:
        ConfigError: there are fewer than 4 rows, or the numbers of rows differ.
    """
    (x, z), (x_hidden, z_hidden) = _halves(inputs, embeddings)
    z_mean, z_std = z.mean(0), z.std(0).clamp_min(1e-9)
    x_mean, x_std = x.mean(0), x.std(0).clamp_min(1e-9)
    source, target = ((z - z_mean) / z_std).float(), ((x - x_mean) / x_std).float()
    cpu = torch.device("cpu")  # whatever the user's default device and dtype are
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), cpu:
        torch.default_generator.manual_seed(seed)
        decoder = nn.Sequential(
            nn.Linear(source.shape[1], width), nn.ReLU(), nn.Linear(width, target.shape[1])
        ).float()
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.01, weight_decay=1e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            F.mse_loss(decoder(source), target).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        rebuilt = decoder(((z_hidden - z_mean) / z_std).float()).double()
    return _scored(x_hidden, rebuilt * x_std + x_mean)


def distance_correlation(x: Tensor, z: Tensor, *, unbiased: bool = False) -> Tensor:
    """Return the distance correlation of two samples (Székely, Rizzo and Bakirov 2007).

    It is 0 for independent samples and 1 if one is a rotation of the other. Vepakomma et al. (2020,
    "NoPeek") use it to measure the leak of split learning. It is differentiable, and needs memory
    for rows x rows numbers.

    Args:
        x: floats of shape [rows, ...].
        z: floats of shape [rows, ...], of the same rows.
        unbiased: whether to use the bias-corrected squared statistic of Székely and Rizzo (2013),
            converted to a correlation (0 if it is negative). For small samples of independent data
            the plain statistic is far above 0.

    Returns:
        A 0-d tensor between 0 and 1.
    """
    a, b = (_centred(_distances(each), unbiased) for each in (x, z))
    rows = len(a)
    scale = rows * (rows - 3) if unbiased else rows * rows
    covariance = (a * b).sum() / scale
    spread = ((a * a).sum() / scale * ((b * b).sum() / scale)).clamp_min(1e-30).sqrt()
    return (covariance / spread).clamp(1e-12, 1.0).sqrt()


def _distances(rows: Tensor) -> Tensor:
    """Return the Euclidean distances between all rows, of shape [rows, rows]."""
    rows = vectors(rows)
    squares = (rows[:, None] - rows[None]).square().sum(2) if rows.shape[1] < 8 else _gram(rows)
    return squares.clamp_min(1e-12).sqrt()  # the root's slope at 0 is infinite


def _gram(rows: Tensor) -> Tensor:
    """Return the squared distances between all rows by their inner products."""
    rows = rows - rows.mean(0)
    squares = rows.square().sum(1)
    return (squares[:, None] + squares[None] - 2 * rows @ rows.T).clamp_min(0)


def _centred(distances: Tensor, unbiased: bool) -> Tensor:
    """Return distances whose rows and columns have the mean 0.

    The unbiased form is the U-centring of Székely and Rizzo (2014), whose diagonal is 0.
    """
    rows = len(distances)
    if not unbiased:
        mean = distances.mean(0)
        return distances - mean[:, None] - mean[None] + mean.mean()
    total = distances.sum(0)
    centred = (
        distances
        - total[:, None] / (rows - 2)
        - total[None] / (rows - 2)
        + total.sum() / ((rows - 1) * (rows - 2))
    )
    return centred - torch.diag(centred.diagonal())


_Half = tuple[Tensor, Tensor]
"""The inputs and the embeddings of one half of the rows."""


def _halves(inputs: Tensor, embeddings: Tensor) -> tuple[_Half, _Half]:
    """Return every other row for fitting, and the rest for the test, each as inputs and embeddings.

    Raises:
        ConfigError: there are too few rows, or different numbers of them.
    """
    if len(inputs) != len(embeddings) or len(inputs) < 4:
        raise ConfigError(
            f"there are {len(inputs)} rows of inputs and {len(embeddings)} of embeddings; give 4 or"
            " more, and the same on both sides"
        )
    x, z = table(inputs).cpu(), table(embeddings).cpu()
    return (x[0::2], z[0::2]), (x[1::2], z[1::2])


def _scored(truth: Tensor, rebuilt: Tensor) -> Reconstruction:
    """Return how well `rebuilt` explains `truth`, in all and column by column."""
    error = (truth - rebuilt).square().sum(0)
    variance = (truth - truth.mean(0)).square().sum(0)
    columns = torch.where(variance > 0, 1 - error / variance, torch.nan)
    r2 = float(1 - error.sum() / variance.sum()) if float(variance.sum()) > 0 else 0.0
    return Reconstruction(r2, columns)
