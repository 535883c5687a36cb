"""Defines the types of a report, which is plain data; its JSON has the same fields."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

FORMAT = 1
"""The version of the JSON format; new versions only add fields."""

Point = tuple[float, float]
State = Literal["running", "finished", "failed", "interrupted", "unknown"]
Level = Literal["low", "some", "much", "all"]
"""The four levels of leakage: little can be learnt, some can be guessed, much can, all can be
read.
"""


class Party(Struct, frozen=True):
    """A party of the task.

    Attributes:
        name: its feature key.
        role: "host" or "collaborator".
        own: whether the report is that of this party.
        fingerprint: the fingerprint of its key in the task file; empty without one.
        part: what it brings to the task, in words.
    """

    name: str
    role: Literal["host", "collaborator"]
    own: bool = False
    fingerprint: str = ""
    part: str = ""


class Outcome(Struct, frozen=True):
    """The state of the last launch, or how it ended.

    Attributes:
        state: the state; it is also "running" if the process was killed.
        phase, round: the phase and the round that it reached last.
        error: the class of the error that ended it early.
        message: the message of one of heterofed's own errors; others may hold data and are not
            kept.
        hook: the user's hook that raised the error.
        waiting_for: the parties for which it waited.
        updated: the time of the last update, ISO 8601 in UTC.
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
    """The consent of the parties to the terms of a task file.

    Attributes:
        terms: the digest of the terms, hexadecimal.
        expires: the last day on which the task may run; empty if there is none.
        accepted: the time at which this party accepted exactly these terms, according to its audit
            log; empty if this machine has no record of it.
        started: the time at which it last started a task with these terms.
    """

    terms: str
    expires: str = ""
    accepted: str = ""
    started: str = ""


class Counts(Struct, frozen=True):
    """Numbers of rows; None if a number is not known.

    Attributes:
        own: the number of this party's ids.
        common: the number of ids that all parties have.
        train, test: the numbers of train and test ids among these.
        columns: the number of columns of this party's tables; their names are not shown.
    """

    own: int | None = None
    common: int | None = None
    train: int | None = None
    test: int | None = None
    columns: int | None = None


class Matching(Struct, frozen=True):
    """The way in which the common ids were found; its fields are empty before that.

    Attributes:
        protocol: "rsa" or "ecdh".
        backend: the library that computed this party's part.
    """

    protocol: str = ""
    backend: str = ""


class Curve(Struct, frozen=True):
    """A line of a figure.

    Attributes:
        name: the name of the curve.
        points: pairs [x, y], thinned out.
    """

    name: str
    points: list[Point]


class Figure(Struct, frozen=True):
    """A figure to be drawn.

    Attributes:
        title: the title of the figure.
        x, y: the names of the axes.
        curves: the lines.
        style: "line", or "points" for a scatter plot.
        diagonal: whether to draw the line of a random guess or of a perfect calibration.
        x_span, y_span: the range of an axis; None for the range of the values.
        note: an explanation in plain words.
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
        name: the name of the column.
        last: its last value.
        lowest, highest: the pairs [round, value] of the extremes.
        figure: its values over the rounds.
        meaning: an explanation in words, if the name is well-known.
    """

    name: str
    last: float
    lowest: Point
    highest: Point
    figure: Figure
    meaning: str = ""


class Table(Struct, frozen=True):
    """A table whose cells are numbers or text.

    Attributes:
        is_matrix: whether it counts true classes (rows) by predicted ones (columns).
    """

    name: str
    columns: list[str]
    rows: list[list[str | float | int | None]]
    is_matrix: bool = False


class MetricSet(Struct, frozen=True):
    """A metrics set, which is the file `<name>.csv`.

    Attributes:
        rows: the number of rows of the file.
        metrics: its columns, if it has one row for each round.
        last_round: the rows of the last round, if there are several.
    """

    name: str
    rows: int
    metrics: list[Metric]
    last_round: Table | None = None


class Baseline(Struct, frozen=True):
    """A metric of the joint run beside those of the Host alone and of one pooled model.

    Attributes:
        metric: its name.
        values: the last value, by mode.
        figure: the values of each mode over the rounds.
    """

    metric: str
    values: dict[str, float]
    figure: Figure


class Score(Struct, frozen=True):
    """A metric of an evaluation.

    Attributes:
        value: its value; None if it is undefined.
        low, high: its confidence interval, if there is one.
        meaning: an explanation in words, if the name is well-known.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    meaning: str = ""


class Evaluated(Struct, frozen=True):
    """The content of `evaluation.json` for the report.

    Attributes:
        kind, on, rows, round, notes: the same as in the file.
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

    @property
    def has_intervals(self) -> bool:
        """Whether a score has a confidence interval."""
        return any(each.low is not None and each.high is not None for each in self.scores)

    def tells(self, one: MetricSet) -> bool:
        """Return whether the scores, and the number of rows, hold all that a metrics set says."""
        known = {each.name: each.value for each in self.scores} | {"rows": self.rows}
        return one.rows == 1 and all(known.get(each.name) == each.last for each in one.metrics)


class LeakFound(Struct, frozen=True):
    """The worst result of one attack in the run.

    Attributes:
        party: the party that could read the data.
        attack, measure: the same as in `leakage.csv`.
        title: a description of the measurement in words.
        what: the data that could be read: "the labels" or "the inputs".
        worst, last: the worst and the last value of the measure; `RunReport.leak_figures` has all
            values.
        severity: a number from 0 (nothing leaks) to 1 (everything leaks).
        level: the severity in four steps.
        sentence: the result in words.
        samples: the number of samples from which the worst value was computed.
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
    """A guarantee, which limits how much one person can influence what was sent.

    Attributes:
        column: the column of `privacy.csv`.
        title: a title in words.
        value: the last value; None if there is no limit.
        meaning: an explanation in words.
        covers, not_covered: what the guarantee covers, and what it does not.
    """

    column: str
    title: str
    value: float | None
    meaning: str
    covers: str
    not_covered: str
    figure: Figure | None = None


class Link(Struct, frozen=True):
    """The quality of the link to a party, as it was measured.

    Attributes:
        party: its feature key.
        round_trip: the shortest time in seconds to the party and back, by the heartbeats of the
            link; None if it was not measured.
        bytes_per_second: the speed at which its large messages came; None if none came.
    """

    party: str
    round_trip: float | None = None
    bytes_per_second: float | None = None


class Phase(Struct, frozen=True):
    """The cost of a phase at this party, over all rounds.

    Attributes:
        meaning: an explanation in words.
        seconds: the time of the phase. `compute` is the part in hooks, `encode` the part that
            converted messages to bytes and back, and `wait` the part that waited.
        sent, received: the numbers of bytes.
        slowest: the party that was waited for longest, if that took a tenth of the time or more.
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
    """Messages of one kind that this party sent to one party in one phase.

    Attributes:
        kind: the name of the message in the protocol.
        holds: a description of its content in words.
        messages, bytes: the numbers of messages and of bytes.
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
        meaning: an explanation in words, if it is a field of the plan.
    """

    name: str
    meaning: str
    value: str


class SavedFile(Struct, frozen=True):
    """A model file in the results folder.

    Attributes:
        sha256: the digest of the file, hexadecimal; empty if the file is large.
    """

    name: str
    bytes: int
    sha256: str = ""


class RunReport(Struct, frozen=True, kw_only=True):
    """The whole report.

    Attributes:
        format: the version of these fields.
        task, party, run: the task id, the party, and 32 hexadecimal digits that name the run.
        purpose: "train", or "psi" if ids were only intersected.
        made, made_with: the time of the report, and the version of heterofed that made it.
        started, ended: the times of the task, ISO 8601 in UTC; empty if they are not known.
        seconds: the duration of the task; None before its end.
        outcome: the outcome of the last launch.
        is_of_earlier_run: whether all other fields are of a run that had ended before that launch.
        rounds, planned_rounds, best_round: the number of trained rounds, the number of planned
            rounds (0 until the Host has announced it), and the round that was marked as best (0 for
            none).
        everybody: who has the common rows, in words: all parties, or all roles if some have sites.
        meeting: a description of the place where the parties met.
        secured: whether all parties proved their identity by a key.
        psi: the way in which common ids were found.
        fusion: whether the Host got each Collaborator's features or only their sum.
        defences: the defences of data that are sent, by what they protect.
        leak_figures: the results of the attacks over the rounds, by the party that could read the
            data.
        leak_seconds: the time that the measurements took.
        bytes_sent, bytes_received: the bytes of the whole task.
        unread: the files that could not be read, and why.
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
    everybody: str = "all parties"
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
    links: list[Link] = field(default_factory=list)
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
        """Whether this is the Host's report."""
        return any(each.own and each.role == "host" for each in self.parties)

    @property
    def others(self) -> list[str]:
        """The names of the other parties."""
        return [each.name for each in self.parties if not each.own]
