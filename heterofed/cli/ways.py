"""Says by which commands and options a user starts a party, for messages of the tasks."""

from __future__ import annotations

from heterofed.protocol.states import Role
from heterofed.rendezvous.ways import Ways

COMMANDS = Ways(
    calls={
        "train": "`heterofed table train`",
        "predict": "`heterofed table predict`",
        "serve": "`heterofed serve`",
        "overlap": "`heterofed table overlap`",
        "psi": "`heterofed psi`",
        "stored": "`heterofed psi --stored` and `heterofed psi-set serve`",
        "probe": "`heterofed doctor`",
    },
    roles={Role.HOST: "--role host", Role.COLLABORATOR: "--role collaborator"},
    name="--party",
)
"""Those of `heterofed table`."""

PSI_COMMAND = Ways(
    COMMANDS.calls,
    {Role.HOST: "--role initiator", Role.COLLABORATOR: "--role collaborator"},
    COMMANDS.name,
)
"""Those of `heterofed psi`."""
