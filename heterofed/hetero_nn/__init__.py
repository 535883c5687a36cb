"""Split training between a Host and its Collaborators; the loops, to be read like the protocol."""

from heterofed.hetero_nn.collaborator import HeteroNNCollaboratorScheduler
from heterofed.hetero_nn.host import HeteroNNHostScheduler

__all__ = ["HeteroNNCollaboratorScheduler", "HeteroNNHostScheduler"]
