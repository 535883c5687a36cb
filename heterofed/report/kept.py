"""Defines the fields of the JSON files in a results folder that the report needs.

Files of older versions lack some fields, which then have their defaults.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from heterofed.report.model import Matching


class Error(Struct):
    type: str = ""
    message: str | None = None
    hook: str | None = None


class Terms(Struct):
    digest: str = ""
    expires: str = ""
    fingerprints: dict[str, str] = {}


class Status(Struct):
    """The content of `status.json`; a file of an older version lacks some fields."""

    state: str = "unknown"
    phase: str = ""
    round: int = 0
    done: int | None = None
    total: int | None = None
    process: int = 0
    metrics: dict[str, Any] = {}
    waiting_for: list[str] = []
    error: Error | None = None
    task_id: str = ""
    party: str = ""
    run: str = ""
    started: str = ""
    updated: str = ""
    ended: str | None = None
    versions: dict[str, str] = {}
    settings: dict[str, Any] = {}
    plan: dict[str, Any] = {}
    ids: dict[str, int] = {}
    meeting: str = ""
    secured: bool = False
    terms: Terms | None = None
    defences: dict[str, str] = {}


class PhaseCosts(Struct):
    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    compute_seconds: float = 0.0
    encode_seconds: float = 0.0
    wait_seconds: dict[str, float] = {}


class LinkQuality(Struct):
    round_trip: float | None = None
    bytes_per_second: float | None = None


class Columns(Struct):
    names: list[str] = []


class Signature(Struct):
    """The content of `signature.json`, which the package that writes it can read only with
    torch.
    """

    tables: list[Columns] = []
    columns: list[str] | None = None


class Summary(Struct):
    """The content of `summary.json`."""

    task_id: str = ""
    party: str = ""
    run: str = ""
    rounds: int = 0
    best_round: int = 0
    fusion: str = ""
    ids: int | None = None
    own_ids: int | None = None
    train_rows: int | None = None
    test_rows: int | None = None
    psi: Matching = Matching()
    seconds: float | None = None
    bytes_sent: int = 0
    bytes_received: int = 0
    leak_seconds: float = 0.0
    models: dict[str, str] = {}
    phases: dict[str, PhaseCosts] = {}
    links: dict[str, LinkQuality] = {}
