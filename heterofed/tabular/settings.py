"""What all parties of a tabular task go by; it travels with the Host's plan as words.

Nothing in it names a column, a value or a label.
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
"""The setting by which a party sees that the Host's task is one of this layer."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parties of a task go by.

    Attributes:
        model: see `heterofed.tabular.models.HalfPlan`.
        outputs: numbers that the model gives for a row.
        rounds: most rounds over the train rows; the learning rate is planned over them.
        width, hidden, dropout: of each party's network.
        learning_rate, weight_decay, schedule: of each party's optimizer.
        id_recipe: how ids are written (see `heterofed.tabular.ids.IdRecipe`).
        split: what decides which rows are for what (see `heterofed.tabular.splits.Split`); where it
            is not the ids, the Host alone decides, and announces which ids are for what.
        test, validation: shares of the rows: for the final test; of the rest, to stop early.
        split_seed, folds, fold: as of `Split`.
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
            ConfigError: one cannot be.
        """
        try:
            msgspec.convert(msgspec.to_builtins(self), Settings)
        except msgspec.ValidationError as error:
            raise ConfigError(f"settings of the tabular task: {error}") from None
        self.as_split.check()
        IdRecipe.parse(self.id_recipe)

    @property
    def as_split(self) -> Split:
        """How ids are split."""
        return Split(
            by=self.split,
            test=self.test,
            validation=self.validation,
            seed=self.split_seed,
            folds=self.folds,
            fold=self.fold,
        )

    def announced(self) -> dict[str, str]:
        """As words by name: what `agreed=` of a Host's scheduler takes."""
        return {LAYER: "1"} | {
            name: format(value, ".17g") if isinstance(value, float) else str(value)
            for name, value in msgspec.to_builtins(self).items()
        }

    @classmethod
    def read(cls, agreed: Mapping[str, str]) -> Settings:
        """The settings that a Host announced. They come from another machine: each is checked.
        Names with a dot are of layers above this one, such as a search.

        Raises:
            ConfigError: the Host's task is no tabular one, or a setting cannot be.
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
