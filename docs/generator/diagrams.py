"""Draws the protocol's state machine and the commit of a checkpoint as Mermaid diagrams."""

from __future__ import annotations

from heterofed.protocol import messages
from heterofed.protocol.states import COMPLETED, TABLE, Role, State

ROLES = {Role.HOST: "H", Role.COLLABORATOR: "C"}
UNIVERSAL = (messages.Abort, messages.Waiting)  # may come in every state: not drawn


def state_diagram() -> str:
    """The table of states as a picture."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for state, row in TABLE.items():
        for (role, kind), following in row.items():
            if kind not in UNIVERSAL:
                words = f"{kind.__name__} ({ROLES[role]})"
                arrows.setdefault((state, following), []).append(words)
    for state, following in COMPLETED.items():
        arrows.setdefault((state, following), []).append("all that was announced has come")
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.CONNECTING}"]
    lines += [f"    {a} --> {b}: {', '.join(words)}" for (a, b), words in arrows.items()]
    lines += [f"    {State.CLOSED} --> [*]", "```"]
    return "\n".join(lines)


def commit_diagram() -> str:
    """How a checkpoint becomes one of all parties, as far as the table of states allows it."""
    ends = messages.RoundEnd
    within = TABLE[State.READY][Role.HOST, ends]
    answers = [
        kind
        for (role, kind), following in TABLE[within].items()
        if role is Role.COLLABORATOR and kind not in UNIVERSAL and following is State.READY
    ]
    goes_on = [messages.BeginTrain, messages.Finish]
    if len(answers) != 1 or any((Role.HOST, kind) not in TABLE[State.READY] for kind in goes_on):
        raise ValueError("the commit is not what this diagram says any more")
    others = {"A": "a", "B": "b"}
    held, after = answers[0].__name__, [kind.__name__ for kind in goes_on]
    lines = ["```mermaid", "sequenceDiagram", "    participant H as Host"]
    lines += [f"    participant {key} as Collaborator {name}" for key, name in others.items()]
    lines += ["    Note over H,B: round k is trained and tested"]
    lines += [f"    H->>{key}: {ends.__name__}(k)" for key in others]
    lines += ["    par each writes its own", "        H->>H: round-k"]
    lines += [f"        {key}->>{key}: round-k" for key in others]
    lines += ["    end"]
    lines += [f"    {key}->>H: {held}(k)" for key in others]
    lines += [f"    Note over H,B: all hold k: {after[0]}(k + 1) may be said, or {after[1]}"]
    lines += [f"    H->>{key}: {after[0]}(k + 1)" for key in others]
    return "\n".join([*lines, "```"])
