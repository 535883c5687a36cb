"""Each argument of a constructor is a setting, and reaches it."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from heterofed import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.hetero_nn.settings import CollaboratorSettings, HostSettings
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
