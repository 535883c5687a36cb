"""What a finished run left at a party: which run it was, its models, the means of features."""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from heterofed.compute.tensors import Layout
from heterofed.compute.wrappers import state_for
from heterofed.data.signature import SIGNATURE, read_signature
from heterofed.errors import ConfigError, MissingPartyError
from heterofed.files import own_folder
from heterofed.protocol.plan import Fusion
from heterofed.reporting.diagnostics import Harmless
from heterofed.reporting.results import SUMMARY, write_whole
from heterofed.runs.extra_modules import EXTRA, load_extras
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")

Which = Literal["last", "best"]

MEANS = "feature_means.pt"

SUMMED_AT_ONCE = 1 << 17
"""Numbers."""

MAX_ROW = 1 << 22
"""Numbers in a row of one party up to which their means are kept: 32 MiB of sums in float64,
however narrow the numbers are that a peer sends.
"""


class _Summary(msgspec.Struct):
    run: str = ""
    rounds: int = 0
    best_round: int = 0
    fusion: Fusion = "separate"


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run, as its results folder tells.

    Attributes:
        folder: the results folder.
        run: 16 bytes that name the run, the same at every party.
        rounds: rounds trained.
        best_round: the round whose models `mark_best` kept; 0: none.
        fusion: whether the Host got each Collaborator's features or only their sum.
        which: which of its models are meant.
    """

    folder: Path
    run: bytes
    rounds: int
    best_round: int
    fusion: Fusion
    which: Which

    def path(self, name: str) -> Path:
        """Of a model's file, or of another one that is kept for the best round too."""
        prefix = "best_" if self.which == "best" else ""
        return self.folder / f"{prefix}{name}"


def read_trained(folder: Path, which: Which = "last") -> Trained:
    """Look at what a finished run left in a results folder.

    Raises:
        ConfigError: no run has ended well there.
    """
    if which not in ("last", "best"):
        raise ConfigError(f"models={which!r}: give 'last' or 'best'")
    try:
        found = msgspec.json.decode((folder / SUMMARY).read_bytes(), type=_Summary)
        run = bytes.fromhex(found.run)
    except (OSError, ValueError, msgspec.MsgspecError):
        raise ConfigError(
            f"{folder} holds no run that has ended well; train first, with the same task id, name"
            " and results_dir"
        ) from None
    if len(run) != 16 or found.rounds < 1:
        raise ConfigError(f"{folder / SUMMARY} is of a task that trained no model")
    return Trained(folder, run, found.rounds, found.best_round, found.fusion, which)


def trained_here(run: Run, which: Which = "last") -> Trained:
    """What the finished run left whose results folder is above that of this one.

    Raises:
        ConfigError: no run has ended well there, or the folder is a link or another user's: where
            others may exchange it, they could have their own model served.
    """
    folder = run.result.folder.parent
    if folder.is_dir():
        own_folder(folder)
    return read_trained(folder, which)


def take_signature(trained: Trained, run: Run) -> None:
    """Have a run that serves compare what its half is fed with what it was trained on.

    Raises:
        ConfigError: the file that says so is damaged.
    """
    kept = read_signature(trained.folder)
    if kept is None:
        logger.warning(
            "%s has no %s: nothing says which columns this half was trained on, so they are not"
            " compared",
            trained.folder,
            SIGNATURE,
        )
    run.predicts = True
    run.state.pop("reader", None)  # one that trains
    run.state["signature"] = {} if kept is None else msgspec.to_builtins(kept)


def read_weights(trained: Trained, name: str) -> Any:
    """What `torch.save` put into `<name>.pt`.

    Raises:
        ConfigError: it is not there, or is damaged.
    """
    path = trained.path(f"{name}.pt")
    if not path.exists() and trained.which == "best":
        raise ConfigError(f"{path} is not there; call self.mark_best() in test, or use the last")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__})") from None
    return state


def load_weights(trained: Trained, name: str, model: nn.Module) -> None:
    """Give a model the weights that the run left.

    Raises:
        ConfigError: they are not there, or of another model.
    """
    state = read_weights(trained, name)
    try:
        model.load_state_dict(state_for(model, state))
    except (RuntimeError, AttributeError) as error:
        lines = str(error).splitlines()
        raise ConfigError(
            f"{trained.path(name + '.pt')} is of another model than make_{name} makes: {lines[-1]}"
        ) from None


def load_beside(trained: Trained, owner: object) -> None:
    """Give what a scheduler holds beside its models what it had learnt in training.

    Raises:
        ConfigError: it holds something else in its place, or the file is damaged.
    """
    if trained.path(f"{EXTRA}.pt").exists():
        load_extras(owner, read_weights(trained, EXTRA))


# -- the means of features -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stand:
    """What stands for one row of a party's features: how it arranged them, and their means.

    Attributes:
        layout: as its hook yielded them.
        means: by tensor name, [...] without the rows; zero for integers and bools. None where
            batches differed in more than the rows, or rows had more than `MAX_ROW` numbers.
    """

    layout: Layout
    means: dict[str, Tensor | None]

    def fill(
        self, tensors: Mapping[str, Tensor], here: Tensor, party: str, *, by_mean: bool
    ) -> dict[str, Tensor]:
        """Features of all rows, where a party has some.

        Args:
            tensors: by name, of the rows that it has; empty where it has none.
            here: which these are: bool, [rows].
            party: its feature key.
            by_mean: whether means stand for the others, or zeros.

        Raises:
            MissingPartyError: its features had no one shape, or too large a one, so nothing can
                stand for a row.
        """
        filled = {}
        for name, mean in self.means.items():
            if mean is None or (name in tensors and tensors[name].shape[1:] != mean.shape):
                raise MissingPartyError(
                    f"nothing can stand for rows that {party} does not have: its features had no"
                    f" one shape in training, or more than {MAX_ROW} numbers a row",
                    party=party,
                )
            value = mean if by_mean else torch.zeros_like(mean)
            filled[name] = value.expand(len(here), *mean.shape).clone()
            if name in tensors:
                filled[name][here] = tensors[name]
        return filled


class FeatureMeans:
    """The means of each Collaborator's features over a round, for rows that it will not have.

    Args:
        state: gets what was counted, in plain values that a checkpoint can keep; a round that goes
            on goes on with them.
        harmless: tells where features cannot be counted; then nothing stands for those of a party.
    """

    def __init__(self, state: dict[str, Any], harmless: Harmless) -> None:
        self._state = state
        self._harmless = harmless

    def add(self, party: str, layout: Layout, tensors: Mapping[str, Tensor]) -> None:
        """Count a batch in; never raises."""
        counted = False
        with self._harmless("the means of features"):
            self._add(party, layout, tensors)
            counted = True
        if not counted:
            lost = {"layout": layout, "rows": 0, "sums": dict.fromkeys(tensors), "types": {}}
            self._state[party] = lost

    def _add(self, party: str, layout: Layout, tensors: Mapping[str, Tensor]) -> None:
        kept = self._state.setdefault(party, {"layout": layout, "rows": 0, "sums": {}, "types": {}})
        sums = kept["sums"]
        wide = sum(math.prod(tensor.shape[1:]) for tensor in tensors.values()) > MAX_ROW
        for name, tensor in tensors.items():
            if name not in sums:
                sums[name] = None if wide else _no_sum(tensor)
                kept["types"][name] = tensor.dtype
            if sums[name] is None or wide or sums[name].shape != tensor.shape[1:]:
                sums[name] = None
            elif tensor.is_floating_point():
                sums[name] = sums[name] + _sum_of_rows(tensor.detach()).cpu()
        kept["rows"] += len(tensor)

    def save(self, path: Path) -> None:
        """Write them, in task order."""
        means = {
            party: {
                "layout": kept["layout"],
                "means": {
                    name: None if total is None else _mean(total, kept["rows"], kept["types"][name])
                    for name, total in kept["sums"].items()
                },
            }
            for party, kept in self._state.items()
        }
        write_whole(path, lambda file: torch.save(means, file))


def _no_sum(tensor: Tensor) -> Tensor:
    """The sum of no row; of integers it stays so, and takes no memory."""
    if tensor.is_floating_point():
        return torch.zeros(tensor.shape[1:], dtype=torch.float64)
    return torch.zeros((), dtype=torch.float64).expand(tensor.shape[1:])


def _sum_of_rows(tensor: Tensor) -> Tensor:
    """In float64, without a copy of a big tensor in it."""
    if tensor.numel() <= SUMMED_AT_ONCE:
        return tensor.sum(dim=0, dtype=torch.float64)
    chunk = max(1, SUMMED_AT_ONCE // max(1, tensor[:1].numel()))
    total = torch.zeros(tensor.shape[1:], dtype=torch.float64, device=tensor.device)
    for part in torch.split(tensor, chunk):
        total += part.sum(dim=0, dtype=torch.float64)
    return total


def _mean(total: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """Zero for integers and bools, in one number's memory."""
    if dtype.is_floating_point:
        return (total / max(1, rows)).to(dtype)
    return torch.zeros((), dtype=dtype).expand(total.shape)


def read_stands(trained: Trained) -> dict[str, Stand]:
    """What stands for each Collaborator, in task order.

    Raises:
        ConfigError: the file is not there or damaged.
    """
    kept = read_weights(trained, MEANS.removesuffix(".pt"))
    return {party: Stand(each["layout"], each["means"]) for party, each in kept.items()}
