"""Each argument of a constructor is a setting, and reaches it; other values are refused."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heterofed import ConfigError, HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.hetero_nn.settings import CollaboratorSettings, HostSettings
from heterofed.homo_nn import HomoNNCollaboratorScheduler, HomoNNHostScheduler
from heterofed.privacy.embedding_defences import ClippedGaussian
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.marvell import Marvell
from heterofed.runs.settings import LeadSettings, Settings

CONSTRUCTORS = [
    (HeteroNNHostScheduler, HostSettings),
    (HeteroNNCollaboratorScheduler, CollaboratorSettings),
    (RSAPSIInitiatorScheduler, LeadSettings),
    (RSAPSICollaboratorScheduler, Settings),
]


@pytest.mark.parametrize(("cls", "settings"), CONSTRUCTORS)
def test_each_argument_is_a_setting(cls: type, settings: type[Any]) -> None:
    arguments = set(inspect.signature(cls).parameters) - {"ids", "rows_out"}  # of this run alone
    names = {each.name: each for each in dataclasses.fields(settings)}
    assert arguments <= names.keys()
    required = {
        name
        for name, each in names.items()
        if each.default is each.default_factory is dataclasses.MISSING
    }
    assert required <= arguments


def test_what_was_given_is_what_is_used() -> None:
    scheduler = RSAPSIInitiatorScheduler("a", psi_bits=3072, results_dir="somewhere")
    settings = scheduler._heterofed.settings
    assert isinstance(settings, LeadSettings)
    assert settings.psi_bits == 3072
    assert settings.results_dir.name == "somewhere"
    assert settings.agreed == {}


class Strange:
    """What no setting takes."""


class AcceptedError(Exception):
    """The settings were accepted."""


@functools.cache
def checking(cls: Any) -> Any:
    """A scheduler whose tasks end after the checks of settings."""

    def validate_context(self: Any) -> None:
        cls.validate_context(self)
        raise AcceptedError

    hooks = dict.fromkeys(cls.__abstractmethods__, lambda *_: None)
    return type("Checking", (cls,), {**hooks, "validate_context": validate_context})


def launch(cls: type, **settings: Any) -> None:
    rounds = {"max_rounds": 1} if "max_rounds" in inspect.signature(cls).parameters else {}
    checking(cls)(**{"feature_key": "me", **rounds, **settings}).launch_task("t")


ALL = [
    HeteroNNHostScheduler,
    HeteroNNCollaboratorScheduler,
    RSAPSIInitiatorScheduler,
    RSAPSICollaboratorScheduler,
    HomoNNHostScheduler,
    HomoNNCollaboratorScheduler,
]


@pytest.mark.parametrize("cls", ALL)
def test_what_is_no_setting_is_refused_by_name(cls: type, home: Path) -> None:
    """Before anything is done: an unknown defence, for one, must not be as good as none."""
    for name in inspect.signature(cls).parameters.keys() - {"ids"}:  # which are data
        for wrong in (Strange(), Strange, [Strange()], math.nan):
            with pytest.raises(ConfigError, match=name):
                launch(cls, **{name: wrong})


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (HeteroNNHostScheduler, "gradient_defence", ClippedGaussian(1.0, 1.0)),
        (HeteroNNHostScheduler, "gradient_defence", RandomisedResponse(1.0)),
        (HeteroNNHostScheduler, "label_dp", Marvell(0.6)),
        (HeteroNNCollaboratorScheduler, "embedding_defence", Marvell(0.6)),
        (HeteroNNCollaboratorScheduler, "max_peer_ids", math.inf),
        (HeteroNNCollaboratorScheduler, "insecure", "no"),
        (HeteroNNCollaboratorScheduler, "callbacks", print),
    ],
)
def test_what_belongs_elsewhere_is_refused_by_name(
    cls: Any, name: str, value: Any, home: Path
) -> None:
    with pytest.raises(ConfigError, match=name):
        launch(cls, **{name: value})


def test_numbers_of_numpy_are_numbers(home: Path) -> None:
    with pytest.raises(AcceptedError):
        launch(HeteroNNHostScheduler, party_dropout=np.float32(0.5))
