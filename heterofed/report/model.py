"""The types of a report: what a results folder tells, as plain data. Its JSON has these fields."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

FORMAT = 1
"""Of the JSON; fields are only added."""

Point = tuple[float, float]
State = Literal["running", "finished", "failed", "interrupted", "unknown"]
Level = Literal["low", "some", "much", "all"]
"""How much leaks: little can be learnt, some can be guessed, much can, all can be read."""


class Party(Struct, frozen=True):
    """One of those who take part.

    Attributes:
        name: its feature key.
        role: "host" or "collaborator".
        own: whether the report is this party's.
        fingerprint: of its key in the task file; empty where there is none.
    """

    name: str
    role: Literal["host", "collaborator"]
    own: bool = False
    fingerprint: str = ""


class Outcome(Struct, frozen=True):
    """How the last launch stands or has ended.

    Attributes:
        state: "running" also where the process was killed.
        phase, round: that it was in last.
        error: class of what ended it early.
        message: of an error of heterofed's own; others may hold data, and are not kept.
        hook: of the user's, which raised it.
        waiting_for: parties that were waited for.
        updated: when that was noted, ISO 8601 in UTC.
    """

    state: State = "unknown"
    phase: str = ""
    round: int = 0
    error: str = ""
    message: str = ""
    hook: str = ""
    waiting_for: list[str] = field(default_factory=list)
    updated: str = ""


class Agreed(Struct, frozen=True):
    """What the parties agreed to by a task file.

    Attributes:
        terms: digest of its terms, hexadecimal.
        expires: last day on which the task may run; empty: no such day.
        accepted: when this party accepted exactly these terms, as its audit log has it; empty where
            that is not on record on this machine.
        started: when it last started a task on them.
    """

    terms: str
    expires: str = ""
    accepted: str = ""
    started: str = ""


class Counts(Struct, frozen=True):
    """Numbers of rows; None where that is not known.

    Attributes:
        own: ids that this party came with.
        common: ids that all parties have.
        train, test: of these.
        columns: of this party's tables; names are not told.
    """

    own: int | None = None
    common: int | None = None
    train: int | None = None
    test: int | None = None
    columns: int | None = None


class Matching(Struct, frozen=True):
    """How the common ids were found; empty where they were not yet.

    Attributes:
        protocol: "rsa" or "ecdh".
        backend: which library computed this party's part.
    """

    protocol: str = ""
    backend: str = ""


class Curve(Struct, frozen=True):
    """A line of a figure.

    Attributes:
        points: [x, y], thinned.
    """

    name: str
    points: list[Point]


class Figure(Struct, frozen=True):
    """Something to draw.

    Attributes:
        title: of the figure.
        x, y: names of the axes.
        curves: the lines.
        style: "line", or "points" for a cloud of single ones.
        diagonal: whether to draw what a guess, or a perfect calibration, would give.
        x_span, y_span: from where to where an axis goes; None: as far as the values do.
        note: what it shows, in plain words.
    """

    title: str
    x: str
    y: str
    curves: list[Curve]
    style: Literal["line", "points"] = "line"
    diagonal: bool = False
    x_span: Point | None = None
    y_span: Point | None = None
    note: str = ""


class Metric(Struct, frozen=True):
    """A column of a metrics set.

    Attributes:
        last: its last value.
        lowest, highest: [round, value].
        figure: its course.
        meaning: in words, where its name is a well-known one.
    """

    name: str
    last: float
    lowest: Point
    highest: Point
    figure: Figure
    meaning: str = ""


class Table(Struct, frozen=True):
    """A table; a cell is a number or text.

    Attributes:
        is_matrix: whether it counts true classes (rows) by predicted ones (columns).
    """

    name: str
    columns: list[str]
    rows: list[list[str | float | int | None]]
    is_matrix: bool = False


class MetricSet(Struct, frozen=True):
    """A metrics set: the CSV `<name>.csv`.

    Attributes:
        rows: how many the file has.
        metrics: its columns, where it has one row for each round.
        last_round: the rows of the last round, where that has several.
    """

    name: str
    rows: int
    metrics: list[Metric]
    last_round: Table | None = None


class Baseline(Struct, frozen=True):
    """A metric of the joint run beside what the Host alone and one joined model reach.

    Attributes:
        metric: its name.
        values: the last value, by mode.
        figure: the course of each.
    """

    metric: str
    values: dict[str, float]
    figure: Figure


class Score(Struct, frozen=True):
    """A metric of an evaluation.

    Attributes:
        value: None where it is undefined.
        low, high: its confidence interval, where there is one.
        meaning: in words, where its name is a well-known one.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    meaning: str = ""


class Evaluated(Struct, frozen=True):
    """What `evaluation.json` says.

    Attributes:
        kind, on, rows, round, notes: as there.
        scores, figures, tables: its metrics, curves and tables.
    """

    kind: str
    on: str = ""
    rows: int | None = None
    round: int | None = None
    scores: list[Score] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class LeakFound(Struct, frozen=True):
    """What one attack found in the run, at its worst.

    Attributes:
        party: who could read it.
        attack, measure: as in `leakage.csv`.
        title: what was measured, in words.
        what: what could be read: "the labels" or "the inputs".
        worst, last: of the measure; `RunReport.leak_figures` has its course.
        severity: 0: nothing leaks, 1: all does.
        level: the same in four steps.
        sentence: the same in words.
        samples: that the worst value is taken from.
    """

    party: str
    attack: str
    measure: str
    title: str
    what: str
    worst: float
    last: float
    severity: float
    level: Level
    sentence: str
    samples: int


class Epsilon(Struct, frozen=True):
    """A guarantee: how much one person can matter to what was told.

    Attributes:
        column: of `privacy.csv`.
        title: in words.
        value: the last one; None: there is no limit.
        meaning: in words.
        covers, not_covered: what it is about, and what not.
    """

    column: str
    title: str
    value: float | None
    meaning: str
    covers: str
    not_covered: str
    figure: Figure | None = None


class Phase(Struct, frozen=True):
    """What a phase cost this party, over all rounds.

    Attributes:
        meaning: in words.
        seconds: that it took; of these, `compute` in hooks, `encode` in turning mail into bytes and
            back, and `wait` in waiting.
        sent, received: bytes.
        slowest: who was waited for longest, where that was a tenth of the time or more.
    """

    name: str
    meaning: str
    seconds: float
    compute: float
    encode: float
    wait: float
    sent: int
    received: int
    slowest: str = ""


class Outflow(Struct, frozen=True):
    """What left this party, of one kind, to one party, in one phase.

    Attributes:
        kind: name of the message in the protocol.
        holds: what is in it, in words.
        messages, bytes: how much it was.
    """

    phase: str
    kind: str
    holds: str
    to: str
    messages: int
    bytes: int


class Setting(Struct, frozen=True):
    """A setting.

    Attributes:
        meaning: in words, where it is one of the plan.
    """

    name: str
    meaning: str
    value: str


class SavedFile(Struct, frozen=True):
    """A model file in the results folder.

    Attributes:
        sha256: hexadecimal; empty where the file is large.
    """

    name: str
    bytes: int
    sha256: str = ""


class RunReport(Struct, frozen=True, kw_only=True):
    """All of it.

    Attributes:
        format: version of these fields.
        task, party, run: of which task and party, and 32 hexadecimal digits that name the run.
        purpose: "train", or "psi" where ids were only intersected.
        made, made_with: when, and by which version of heterofed.
        started, ended: ISO 8601 in UTC; empty where that is not known.
        seconds: that the task took; None before its end.
        outcome: of the last launch.
        is_of_earlier_run: whether all else is of a run that had ended before that launch.
        rounds, planned_rounds, best_round: trained, planned (0: until the Host says so), and the
            one that was marked as best (0: none).
        meeting: where the parties met, in words.
        secured: whether everybody proved who they are by a key.
        psi: how common ids were found.
        fusion: whether the Host got each Collaborator's features or only their sum.
        defences: what hides something on the way out, by what it hides.
        leak_figures: their course, by who could read something.
        leak_seconds: that measuring took.
        bytes_sent, bytes_received: of the whole task.
        unread: files that could not be read, and why.
    """

    format: int = FORMAT
    task: str
    party: str
    run: str = ""
    purpose: Literal["train", "psi"] = "train"
    made: str
    made_with: str
    started: str = ""
    ended: str = ""
    seconds: float | None = None
    outcome: Outcome = Outcome()
    is_of_earlier_run: bool = False
    parties: list[Party] = field(default_factory=list)
    meeting: str = ""
    secured: bool = False
    agreed: Agreed | None = None
    counts: Counts = Counts()
    psi: Matching = Matching()
    fusion: str = ""
    rounds: int = 0
    planned_rounds: int = 0
    best_round: int = 0
    metrics: list[MetricSet] = field(default_factory=list)
    baselines: list[Baseline] = field(default_factory=list)
    evaluation: Evaluated | None = None
    defences: dict[str, str] = field(default_factory=dict)
    leaks: list[LeakFound] = field(default_factory=list)
    leak_figures: list[Figure] = field(default_factory=list)
    leak_seconds: float = 0.0
    epsilons: list[Epsilon] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    egress: list[Outflow] = field(default_factory=list)
    bytes_sent: int = 0
    bytes_received: int = 0
    plan: list[Setting] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    files: list[SavedFile] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def is_host(self) -> bool:
        """Whether it is the Host's report."""
        return any(each.own and each.role == "host" for each in self.parties)

    @property
    def others(self) -> list[str]:
        """Names of the other parties."""
        return [each.name for each in self.parties if not each.own]
