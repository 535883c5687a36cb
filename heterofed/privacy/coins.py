"""The secret that coins of label DP are drawn from: one for each task, outside of its runs.

A second answer about the same label would cost its epsilon again, and some would average the coins
away; whoever makes a Host begin anew could ask for as many as it likes. So the secret is made once,
lies in `$HETEROFED_HOME`, and outlives runs, results folders and processes. Beside it stands with
which strengths it has answered: those are other coins, and their epsilons add up.
"""

from __future__ import annotations

import json
from pathlib import Path

from heterofed.compute.alignment import keyed_digest
from heterofed.errors import ConfigError
from heterofed.files import file_lock, private_folder, put_in_place, read
from heterofed.privacy.label_dp import RandomisedResponse

LOCK_SECONDS = 30.0
"""For another process of this party that opens the file, which takes a moment."""


def with_kept_coins(
    response: RandomisedResponse, ledger: Path, task_id: str, party: str, start: bytes
) -> RandomisedResponse:
    """The same response with the task's coins, where it was given no secret.

    Args:
        response: as the user made it.
        ledger: folder of what is counted over all runs.
        task_id: of the task.
        party: whose labels they are.
        start: 32 bytes that nobody else has: the secret, if there is none yet.

    Raises:
        ConfigError: the file is damaged; other coins would be a second answer.
    """
    if response.given:
        return response
    folder = private_folder(ledger, "coins")
    digest = keyed_digest(b"", "label coins", [task_id, party]).hex()[:32]
    path = folder / f"{digest}.json"
    with file_lock(path.with_suffix(".json.lock"), timeout=LOCK_SECONDS):
        secret, used = _kept(path) or (start, [])
        strength = (response.label_set, response.epsilon, response.classes)
        if strength not in used:
            used.append(strength)
            text = json.dumps({"secret": secret.hex(), "used": used}).encode()
            put_in_place(path, lambda file: file.write(text))
    before = [each for each in used if each != strength and each[0] == response.label_set]
    return response.with_secret(secret, spent=sum(epsilon for _, epsilon, _ in before))


def _kept(path: Path) -> tuple[bytes, list[tuple[str, float, int]]] | None:
    try:
        kept = json.loads(read(path))
        secret = bytes.fromhex(kept["secret"])
        used = [(str(name), float(each), int(classes)) for name, each, classes in kept["used"]]
        if len(secret) != 32:
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path}, from which label_dp draws its coins, is damaged, or none of yours: bring back"
            " a copy of it; if you remove it, each label is told a second time, at its epsilon"
            " again"
        ) from None
    return secret, used
