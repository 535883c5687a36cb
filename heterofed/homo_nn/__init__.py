"""Implements horizontal training: parties with the same columns average one model by rounds.

Names are loaded on first use, so that importing this package does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heterofed.homo_nn.central_dp import CentralDP
    from heterofed.homo_nn.collaborator import HomoNNCollaboratorScheduler
    from heterofed.homo_nn.host import HomoNNHostScheduler
    from heterofed.homo_nn.strategies import FedAdam, FedAvg, FedAvgM, FedProx, FedSGD

__all__ = [
    "CentralDP",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "FedSGD",
    "HomoNNCollaboratorScheduler",
    "HomoNNHostScheduler",
]

_LATE = {
    "CentralDP": "heterofed.homo_nn.central_dp",
    "HomoNNCollaboratorScheduler": "heterofed.homo_nn.collaborator",
    "HomoNNHostScheduler": "heterofed.homo_nn.host",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'heterofed.homo_nn' has no attribute {name!r}")
    home = _LATE.get(name, "heterofed.homo_nn.strategies")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
