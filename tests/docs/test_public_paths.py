"""Import paths that a page names, or once named, keep working."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

import pytest

from tests.e2e.processes import ROOT

RELEASED = {
    "heterofed": ["Batch", "DataChecker", "HeteroNNCollaboratorScheduler", "fake_peer", "simulate"],
    "heterofed.baselines": ["MODES", "compare", "plot"],
    "heterofed.cli": ["main"],
    "heterofed.data": ["IndexedDataset", "VerticalTable", "vertical_split"],
    "heterofed.errors": ["ConfigError", "JoinTimeoutError", "TaskFailed"],
    "heterofed.events": ["RoundEnded"],
    "heterofed.export": ["export"],
    "heterofed.hetero_nn": ["HeteroNNCollaboratorScheduler", "HeteroNNHostScheduler"],
    "heterofed.homo_nn": ["FedAvg", "HomoNNCollaboratorScheduler", "HomoNNHostScheduler"],
    "heterofed.hetero_nn.psi": ["RSAPSICollaboratorScheduler", "RSAPSIInitiatorScheduler"],
    "heterofed.privacy.dpsgd": ["DPSGD"],
    "heterofed.privacy.embedding_defences": ["ClippedGaussian", "Decorrelation"],
    "heterofed.privacy.label_dp": ["RandomisedResponse"],
    "heterofed.privacy.marvell": ["Marvell"],
    "heterofed.privacy.synthetic_gradients": ["SyntheticGradients"],
    "heterofed.protocol.messages": ["Features"],
    "heterofed.scheduler": [
        "ConfigError",
        "DataChecker",
        "Scheduler",
        "TaskFailed",
        "register_metrics",
    ],
    "heterofed.streams": ["random_stream"],
    "psi": ["Budget", "KeptKey", "RSARequester", "RSASigner", "Resume", "column", "domain"],
}
"""What the pages of earlier versions named."""

IMPORT = re.compile(r"^from ((?:heterofed|psi)[\w.]*) import ([\w, ]+)$", re.MULTILINE)


def named_today() -> Iterator[tuple[str, str]]:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for module, names in IMPORT.findall(page.read_text(encoding="utf-8")):
            yield from ((module, name.strip()) for name in names.split(","))


PATHS = sorted({*named_today(), *((m, name) for m, names in RELEASED.items() for name in names)})


@pytest.mark.parametrize(("module", "name"), PATHS)
def test_path_opens(module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name) is not None
