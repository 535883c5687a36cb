"""Defines the agreed settings of a tabular task, which the Host's plan carries as strings.

None of them contains a column, a value or a label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from heterofed.errors import ConfigError
from heterofed.tabular.ids import IdRecipe
from heterofed.tabular.models.half import Model
from heterofed.tabular.splits import By, Split

Schedule = Literal["cosine", "one_cycle", "constant"]
Share = Annotated[float, Meta(gt=0, lt=1)]
Width = Annotated[int, Meta(ge=1, le=4096)]
Rate = Annotated[float, Meta(gt=0, le=10)]

LAYER = "tabular"
"""The setting that shows other parties that the Host's task is a tabular one."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agreed settings of a task.

    Attributes:
        model: see `heterofed.tabular.models.HalfPlan`.
        outputs: the number of outputs of the model for a row.
        rounds: the largest number of rounds over the train rows, for which the learning rate is
            planned.
        width, hidden, dropout: the sizes and the dropout of each party's network.
        learning_rate, weight_decay, schedule: the settings of each party's optimizer.
        id_recipe: how ids are written (see `heterofed.tabular.ids.IdRecipe`).
        split: by what rows are split (see `heterofed.tabular.splits.Split`). If it is not the ids,
            only the Host splits, and it announces the parts.
        test, validation: the share of the rows for the final test, and the share of the others to
            stop early.
        split_seed, folds, fold: the same as in `Split`.
    """

    model: Model = "mlp"
    outputs: Annotated[int, Meta(ge=1, le=1000)] = 1
    rounds: Annotated[int, Meta(ge=1, le=1_000_000)] = 30
    width: Width = 32
    hidden: Width = 64
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.3
    learning_rate: Rate = 2e-3
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = 1e-2
    schedule: Schedule = "cosine"
    id_recipe: Annotated[str, Meta(max_length=300)] = "text"
    split: By = "id"
    test: Share = 0.2
    validation: Share = 0.1
    split_seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    folds: Annotated[int, Meta(ge=0, le=1000)] = 0
    fold: Annotated[int, Meta(ge=0, le=999)] = 0

    def check(self) -> None:
        """Check every value.

        Raises:
            ConfigError: a value is wrong.
        """
        try:
            msgspec.convert(msgspec.to_builtins(self), Settings)
        except msgspec.ValidationError as error:
            raise ConfigError(f"settings of the tabular task: {error}") from None
        self.as_split.check()
        IdRecipe.parse(self.id_recipe)

    @property
    def as_split(self) -> Split:
        """Return the split of the ids."""
        return Split(
            by=self.split,
            test=self.test,
            validation=self.validation,
            seed=self.split_seed,
            folds=self.folds,
            fold=self.fold,
        )

    def announced(self) -> dict[str, str]:
        """Return the settings as strings by name, for `agreed=` of a Host's scheduler."""
        return {LAYER: "1"} | {
            name: str(value)  # of a float, the shortest text that is read as the same number
            for name, value in msgspec.to_builtins(self).items()
        }

    @classmethod
    def read(cls, agreed: Mapping[str, str]) -> Settings:
        """Read the settings that a Host announced, and check each, since they come from another
        machine.

        Names with a dot belong to layers above this one, such as a search.

        Raises:
            ConfigError: the Host's task is not a tabular one, or a setting is wrong.
        """
        words = {name: each for name, each in agreed.items() if "." not in name}
        if words.pop(LAYER, None) != "1":
            raise ConfigError(
                "the Host of this task announces no tabular task: it has to be a TabularHost (or"
                " `heterofed table train`) of a version that goes with this one"
            )
        try:
            return msgspec.convert(words, cls, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"the Host announces settings that cannot be: {error}") from None
