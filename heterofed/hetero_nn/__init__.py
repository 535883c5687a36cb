"""Implements split training between a Host and its Collaborators.

Names are loaded on first use, so tasks that only intersect ids do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heterofed.hetero_nn.collaborator import HeteroNNCollaboratorScheduler
    from heterofed.hetero_nn.host import HeteroNNHostScheduler

__all__ = ["HeteroNNCollaboratorScheduler", "HeteroNNHostScheduler"]

_LATE = {
    "HeteroNNCollaboratorScheduler": "heterofed.hetero_nn.collaborator",
    "HeteroNNHostScheduler": "heterofed.hetero_nn.host",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module 'heterofed.hetero_nn' has no attribute {name!r}")
    value = getattr(import_module(_LATE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
