"""Trains joint models of tables; this layer is built on the public schedulers.

It uses nothing of heterofed that a user could not use, so its code can be copied and extended.
Names are loaded on first use, so the command can list its options without waiting for libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from heterofed.errors import ConfigError

if TYPE_CHECKING:
    from heterofed.tabular.collaborator import TabularCollaborator
    from heterofed.tabular.evaluation import Evaluation, evaluate
    from heterofed.tabular.fitted import Fitted, fit
    from heterofed.tabular.host import TabularHost
    from heterofed.tabular.ids import IdRecipe
    from heterofed.tabular.inspect import TableReport
    from heterofed.tabular.objectives import Labels, Objective, read_labels
    from heterofed.tabular.sources import Source, open_source
    from heterofed.tabular.take_home import TakeHome

__all__ = [
    "Evaluation",
    "Fitted",
    "IdRecipe",
    "Labels",
    "Objective",
    "Source",
    "TableReport",
    "TabularCollaborator",
    "TabularHost",
    "TakeHome",
    "evaluate",
    "fit",
    "open_source",
    "read_labels",
]

_HOME = {
    "Evaluation": "heterofed.tabular.evaluation",
    "Fitted": "heterofed.tabular.fitted",
    "IdRecipe": "heterofed.tabular.ids",
    "Labels": "heterofed.tabular.objectives",
    "Objective": "heterofed.tabular.objectives",
    "Source": "heterofed.tabular.sources",
    "TableReport": "heterofed.tabular.inspect",
    "TabularCollaborator": "heterofed.tabular.collaborator",
    "TabularHost": "heterofed.tabular.host",
    "TakeHome": "heterofed.tabular.take_home",
    "evaluate": "heterofed.tabular.evaluation",
    "fit": "heterofed.tabular.fitted",
    "open_source": "heterofed.tabular.sources",
    "read_labels": "heterofed.tabular.objectives",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        try:
            return getattr(import_module(_HOME[name]), name)
        except ModuleNotFoundError as error:
            raise ConfigError(f"tables need {error.name}: pip install 'heterofed[table]'") from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
