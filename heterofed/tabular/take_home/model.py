"""Keeps a take-home model in a folder, and predicts with it, at the Host alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pandas as pd
import torch
from torch import nn

from heterofed.data.signature import SIGNATURE
from heterofed.errors import ConfigError
from heterofed.files import read, rename_folder, whole_folder, writing
from heterofed.reporting.results import SUMMARY, write_whole
from heterofed.runs.artifacts import Trained, load_weights, read_trained
from heterofed.tabular.ids import Duplicates, IdRecipe
from heterofed.tabular.models import Half, Top
from heterofed.tabular.own_ids import beside, ids_as_written
from heterofed.tabular.settings import Settings
from heterofed.tabular.table import LocalTable, Location
from heterofed.tabular.take_home.compared import Compared

if TYPE_CHECKING:
    from heterofed.tabular.take_home.student import Student

FOLDER = "take_home"
"""The name of the folder within the results folder of the joint run."""

COMPARED = "compared.json"

AT_ONCE = 65_536
"""The number of rows of which the scores are computed at a time."""


class TakeHome:
    """A model that needs the Host's columns only.

    Its folder has the files of a trained half and model on top, so `heterofed.export.export` reads
    it too.

    Args:
        half: the half of the Host's columns.
        top: the model on top of it.
        compared: what it loses against the joint model.

    Attributes:
        compared: the same.
    """

    def __init__(self, half: Half, top: Top, compared: Compared) -> None:
        self._half, self._top, self.compared = half.eval(), top.eval(), compared

    @classmethod
    def load(cls, folder: str | Path) -> TakeHome:
        """Return the model in a folder: that of the model, or the results folder of the joint run.

        Raises:
            ConfigError: there is none, or a file is damaged.
        """
        path = Path(folder)
        path = path if path.name == FOLDER else path / FOLDER
        try:
            compared = msgspec.json.decode(read(path / COMPARED), type=Compared)
        except FileNotFoundError:
            raise ConfigError(
                f"{folder} holds no take-home model; make one first (heterofed table take-home)"
            ) from None
        except (OSError, msgspec.MsgspecError):
            raise ConfigError(f"{path / COMPARED} cannot be read; make the model again") from None
        trained, half, top = read_trained(path), Half(), Top()
        load_weights(trained, "feature_model", half)
        load_weights(trained, "infer_model", top)
        return cls(half, top, compared)

    @torch.no_grad()
    def predict(
        self,
        table: Location,
        *,
        ids: str | Sequence[str],
        id_recipe: IdRecipe | str | None = None,
        duplicates: Duplicates = "error",
    ) -> pd.DataFrame:
        """Predict all rows of a table, without any other party.

        Args:
            table: the table, with the columns of the training.
            ids: the column that holds the ids, or several columns.
            id_recipe: how ids are written; None for the recipe of the training.
            duplicates: what to do if several rows have the same id.

        Returns:
            A DataFrame in the order of the table, with its columns of ids and the predictions.

        Raises:
            ColumnError: the table has other columns than in the training, or other values.
            IdError: the ids cannot be used.
        """
        plan, objective = self._half.plan, self._top.plan
        if plan is None or objective is None:
            raise ConfigError("this take-home model is empty; make it again")
        recipe = IdRecipe.parse(Settings.read(plan.settings).id_recipe)
        local = LocalTable(table, ids=ids, id_recipe=id_recipe, duplicates=duplicates)
        names = list(local.read_ids(recipe))
        for key in range(1, len(recipe.keys)):  # each row by the first of its keys
            names = [*names, *local.further_ids(names, key)]
        if not names:
            raise ConfigError("the table has no row with an id; give one with rows to predict")
        local.load(names, plan.preparation)
        parts = [
            objective.objective.predictions(self._top({"": self._half(batch.inputs)}))
            for batch in local.batches(names, AT_ONCE)
        ]
        found = {name: torch.cat([each[name] for each in parts]) for name in parts[0]}
        positions = local.positions(names)
        order = positions.argsort(kind="stable")
        scores = pd.DataFrame({name: each.numpy()[order] for name, each in found.items()})
        return beside(ids_as_written(local.source, local.id_columns, positions[order]), scores)


def keep(student: Student, compared: Compared, joint: Trained) -> TakeHome:
    """Write a take-home model into the results folder of the joint run, and return it.

    Args:
        student: the trained model.
        compared: what it loses against the joint model.
        joint: the joint run.

    Raises:
        ResultsError: it cannot be written.
    """
    task, party = joint.folder.parent.name, joint.folder.name
    told = {"task_id": task, "party": party, "run": joint.run.hex(), "rounds": joint.rounds}
    place = joint.folder / FOLDER
    with _in_place_of(place) as folder:
        for name, model in (("feature_model", student.half), ("infer_model", student.top)):
            _put_weights(folder / f"{name}.pt", model)
        _put(folder / SUMMARY, json.dumps(told | {"kind": "take-home"}, indent=2).encode())
        if (joint.folder / SIGNATURE).exists():
            _put(folder / SIGNATURE, read(joint.folder / SIGNATURE))
        _put(folder / COMPARED, msgspec.json.format(msgspec.json.encode(compared)))
    return TakeHome(student.half, student.top, compared)


@contextmanager
def _in_place_of(place: Path) -> Iterator[Path]:
    """Yield a new folder, which replaces the one at a place when everything is written.

    Raises:
        ResultsError: it cannot be written; what was there is unchanged.
    """
    before = place.with_name(f".{place.name}.before")
    with writing(place), whole_folder(place) as folder:
        yield folder
        if place.is_symlink():
            place.unlink()
        if place.exists():
            shutil.rmtree(before, ignore_errors=True)
            rename_folder(place, before)
    shutil.rmtree(before, ignore_errors=True)


def _put(path: Path, content: bytes) -> None:
    write_whole(path, lambda file: file.write(content))


def _put_weights(path: Path, model: nn.Module) -> None:
    write_whole(path, lambda file: torch.save(model.state_dict(), file))
