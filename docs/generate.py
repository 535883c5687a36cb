"""The parts of the documentation that are made from the code, so that they cannot drift.

    python -m docs.generate             # write them
    python -m docs.generate --check     # write nothing; name what is stale, and exit with 1

A generated piece stands between `<!-- generated: NAME -->` and `<!-- /generated -->` in any page;
pages that are generated as a whole say so in their first line.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import inspect as types

import heterofed.errors
import psi.errors
import psi.hashing
from heterofed.cli import app
from heterofed.hetero_nn import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.messaging.notices import NOTICE_SECONDS
from heterofed.messaging.party import ABORT_LINGER, LEAST_RATE
from heterofed.protocol import codec, limits, messages
from heterofed.protocol.plan import MAX_PARTIES, Plan
from heterofed.protocol.states import COMPLETED, TABLE, Role, State
from heterofed.rendezvous import backend
from heterofed.report import evaluation
from heterofed.report import model as report_model
from heterofed.runs.settings import Shown
from heterofed.transport import flow_control, zeromq
from heterofed.transport.rate_limit import VISIT_SECONDS, VISITS
from heterofed.transport.reliable import listener as readmit
from heterofed.transport.zeromq import limiter, listener
from psi.rsa import keys

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python -m docs.generate"
WHOLE_FILE = f"<!-- generated: this whole page, by `{COMMAND}`; edits here are lost -->"
PIECE = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)

ROLES = {Role.HOST: "H", Role.COLLABORATOR: "C"}
UNIVERSAL = (messages.Abort, messages.Waiting)  # may come in every state: not drawn


# -- docstrings ----------------------------------------------------------------------------------


def doc(thing: object) -> str:
    """The docstring without its indentation."""
    return inspect.cleandoc(getattr(thing, "__doc__", None) or "")


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")


def sections(text: str) -> dict[str, str]:
    """A docstring by section; what stands outside of them under ''."""
    found: dict[str, list[str]] = {"": []}
    current = ""
    for line in text.splitlines():
        if line.removesuffix(":") in SECTIONS and line.endswith(":"):
            current = line.removesuffix(":")
        elif current and line and not line.startswith(" "):
            current = ""
        found.setdefault(current, []).append(line if line.rstrip(":") != current else "")
    return {name: inspect.cleandoc("\n".join(lines)).strip() for name, lines in found.items()}


def entries(section: str) -> Iterator[tuple[str, str]]:
    """`name: text` entries of a section, each on one line."""
    for entry in re.split(r"\n(?=\S)", section):
        if entry.strip():
            name, _, text = " ".join(entry.split()).partition(": ")
            yield name, text


def as_markdown(text: str) -> str:
    """A docstring for readers of a page."""
    parts = sections(text)
    shown = [re.sub(r"^Hook[^:]*: ", "", parts.pop(""))]
    shown[0] = shown[0][:1].upper() + shown[0][1:]
    for name, section in parts.items():
        if name in ("Returns", "Yields"):
            shown.append(f"{name}: {' '.join(section.split())}")
        else:
            title = "Arguments" if name == "Args" else name
            items = "\n".join(f"- `{each}`: {what}" for each, what in entries(section))
            shown.append(f"{title}:\n\n{items}")
    return "\n\n".join(shown)


def indented_blocks(text: str) -> list[str]:
    """The blocks of a docstring that are indented by four spaces."""
    blocks = re.findall(r"(?:^ {4}.*\n?(?:\n(?= {4}))?)+", text, re.MULTILINE)
    return [inspect.cleandoc("\n" + block) for block in blocks]


# -- the protocol --------------------------------------------------------------------------------


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


def number(value: float) -> str:
    """A limit for people: 2^40 rather than thirteen digits."""
    whole = int(value)
    if whole == value and whole > 9999:
        for base in (2, 10):
            power = round(len(bin(whole)) - 3) if base == 2 else len(str(whole)) - 1
            if base**power == whole:
                return f"{base}^{power}"
            if base**power * base - 1 == whole:
                return f"{base}^{power + 1}-1"
    return f"{value:,.10g}"


def span(low: float | None, high: float | None) -> str:
    """` 1 to 10^9`, or as much of it as there is."""
    parts = ([number(low)] if low is not None else []) + (["to"] if high is not None else [])
    return "".join(f" {each}" for each in [*parts, *([number(high)] if high is not None else [])])


def type_text(kind: types.Type) -> str:  # one line per kind of type is easiest to read
    """What a field may hold."""
    match kind:
        case types.BoolType():
            return "boolean"
        case types.NoneType():
            return "nil"
        case types.IntType(ge=low, le=high):
            return f"integer{span(low, high)}"
        case types.FloatType(ge=low, le=high):
            return f"number{span(low, high)}"
        case types.BytesType(min_length=least, max_length=most):
            return f"{most} bytes" if least == most else f"at most {most:,} bytes"
        case types.StrType(max_length=most, pattern=pattern):
            return f"text, at most {most} characters" + (f", `{pattern}`" if pattern else "")
        case types.LiteralType(values=values):
            return "one of " + ", ".join(
                f'"{each}"' if isinstance(each, str) else f"{each:,}" for each in values
            )
        case types.VarTupleType(item_type=item, min_length=least, max_length=most):
            return f"list of {least or 0} to {most}: {type_text(item)}"
        case types.StructType(cls=cls):
            return f"[`{cls.__name__}`](#{cls.__name__.lower()})"
        case types.UnionType(types=kinds):
            return ", or ".join(type_text(each) for each in kinds)
    raise TypeError(f"no words for {kind!r}")


def fields_of(struct: type[msgspec.Struct]) -> Iterator[types.Field]:
    """The fields of a struct, in the order of the wire."""
    kind = types.type_info(struct)
    if not isinstance(kind, types.StructType):
        raise TypeError(f"{struct.__name__} is no struct")
    yield from kind.fields


def message_table() -> str:
    """Every message: who says it, what it means, its fields in order."""
    return table(
        ["message", "who", "meaning", "fields, in order"],
        (
            [
                f"`{kind.__name__}`",
                (words := " ".join(doc(kind).split())).partition(": ")[0],
                words.partition(": ")[2],
                "<br>".join(f"`{each.name}`: {type_text(each.type)}" for each in fields_of(kind))
                or "none",
            ]
            for kind in messages.MESSAGE_TYPES
        ),
    )


def struct_table(struct: type[msgspec.Struct]) -> str:
    """The fields of a struct that travels inside messages."""
    meanings = dict(entries(sections(doc(struct)).get("Attributes", "")))
    described = [
        [f"`{each.name}`", type_text(each.type), _default(each), meanings.get(each.name, "")]
        for each in fields_of(struct)
    ]
    shown = [column for column in range(4) if any(row[column] for row in described)]
    head = ["field", "type", "default", "meaning"]
    return table(
        [head[column] for column in shown],
        ([row[column] for column in shown] for row in described),
    )


def _default(field: types.Field) -> str:
    if field.required:
        return ""
    value: Any = field.default
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else str(value)


def dtype_table() -> str:
    """What a tensor may be made of."""
    return table(
        ["dtype", "bytes", "takes gradients"],
        (
            [f"`{name}`", str(size), "yes" if name in messages.GRADIENT_DTYPES else "no"]
            for name, size in messages.ITEM_BYTES.items()
        ),
    )


def protocol_limits() -> str:
    """The constants that both ends must know."""
    beat = zeromq.Heartbeat()
    plan = Plan(host="host", collaborators=("collaborator",))
    rows = {
        "protocol version": messages.PROTOCOL_VERSION,
        "largest frame (bytes)": limits.MAX_FRAME_BYTES,
        "largest header (bytes)": limits.MAX_HEADER_BYTES,
        "largest payload of `PsiKey` (bytes)": limits.MAX_KEY_BYTES,
        "largest payload of the other PSI messages (bytes)": limits.MAX_FRAME_BYTES,
        "bytes of one tag or match proof": limits.TAG_BYTES,
        "chunks of blinded values without an answer": limits.PSI_WINDOW,
        "Collaborators of one task, at most": MAX_PARTIES,
        "frames that a sender may be ahead of its reader": flow_control.WINDOW,
        "seconds between heartbeats": int(beat.interval),
        "seconds without any answer until a link is dead": int(beat.timeout),
        "seconds that a handshake may take at the Host": int(listener.HANDSHAKE_SECONDS),
        "seconds that a connection may take to say its Hello": int(VISIT_SECONDS),
        "TCP connections that have said nothing yet, at most": limiter.MAX_SILENT,
        "bytes that such a one may bring (on Linux)": backend.FIRST_BYTES,
        "bytes that libzmq may hold of another one (on Linux)": limiter.MAX_BEHIND,
        "connections of one party at a time": listener.PARTY_SHARE,
        "links of one party at a time": readmit.PARTY_LINKS,
        "bytes of a peer's mail that was not taken, before the plan": limits.most_waiting(None),
        "the same under the default plan": limits.most_waiting(plan),
        "connections a minute that are looked at, of one party": VISITS,
        "bytes a second that a peer must take of what waits for it": LEAST_RATE,
        "seconds of waiting between two `Waiting`": int(NOTICE_SECONDS),
        "seconds given to an Abort to leave": int(ABORT_LINGER),
    }
    return table(["what", "value"], ([what, f"{value:,}"] for what, value in rows.items()))


def phase_limits() -> str:
    """What a peer may make a party hold, phase by phase, under the default plan."""
    plan = Plan(host="host", collaborators=("collaborator",))
    rows = {
        "join": limits.joining(),
        "psi": limits.intersecting(),
        "split, between rounds, finish": limits.agreeing(),
        "train, test": limits.exchanging(plan),
        "after the end": limits.ended(plan),
    }
    return table(
        ["phase", "header", "payload"],
        ([phase, f"{its.header:,}", f"{its.payload:,}"] for phase, its in rows.items()),
    )


REPORT_STRUCTS: list[type[msgspec.Struct]] = [
    each
    for each in vars(report_model).values()
    if isinstance(each, type) and issubclass(each, msgspec.Struct) and each is not msgspec.Struct
]
EVALUATION_STRUCTS: list[type[msgspec.Struct]] = [
    evaluation.Evaluation,
    evaluation.Interval,
    evaluation.Drawn,
    evaluation.Cells,
]


def field_table(struct: type[msgspec.Struct]) -> str:
    """The fields of a struct that files hold, as its annotations and docstring have them."""
    told: dict[str, str] = {}
    for names, what in entries(sections(doc(struct)).get("Attributes", "")):
        told |= dict.fromkeys(names.split(", "), what)
    rows = [
        [f"`{name}`", f"`{kind}`", told.get(name, "")]
        for name, kind in struct.__annotations__.items()
    ]
    shown = 3 if told else 2
    return table(["field", "type", "meaning"][:shown], (row[:shown] for row in rows))


def wire_format() -> str:
    """The layout of a message, from the module that implements it."""
    return "```text\n" + "\n".join(indented_blocks(doc(codec))) + "\n```"


def psi_parameters() -> str:
    """The numbers of the RSA protocol."""
    rows = {
        "public exponent `e`": keys.E,
        "bits of the modulus, at least": keys.MIN_BITS,
        "bits of the modulus, at most": keys.MAX_BITS,
        "bits of the modulus, by default": Plan(host="a", collaborators=("b",)).psi_bits,
        "challenges in the proof of the key": keys.CHALLENGES,
        "bytes of a tag, and of a match proof": psi.hashing.TAG_BYTES,
        "ids of one party, at most": Plan(host="a", collaborators=("b",)).max_peer_ids,
    }
    return table(["parameter", "value"], ([what, f"{value:,}"] for what, value in rows.items()))


# -- the modules ---------------------------------------------------------------------------------


def module_files() -> list[Path]:
    """Every module of the two packages, outermost first."""
    found = [*(ROOT / "heterofed").rglob("*.py"), *(ROOT / "psi").rglob("*.py")]
    return sorted(each for each in found if each.name != "_version.py")


def imports_of(tree: ast.Module) -> Iterator[str]:
    """What a module imports when it runs; not what only type checkers read."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                inner = ROOT / node.module.replace(".", "/") / each.name
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                yield f"{node.module}.{each.name}" if is_module else node.module
        waiting.extend(ast.iter_child_nodes(node))


def module_table(package: str) -> str:
    """Each module of a package: its rule, and what it imports."""
    rows = []
    for path in module_files():
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] != package:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        rule = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
        imported = set(imports_of(tree))
        ours = sorted(
            each.removeprefix("heterofed.") for each in imported if _top(each) == "heterofed"
        )
        psi_parts = sorted(
            each.removeprefix("psi.") if package == "psi" else each
            for each in imported
            if _top(each) == "psi"
        )
        others = sorted(
            {
                _top(each)
                for each in imported
                if _top(each) not in {"heterofed", "psi", *sys.stdlib_module_names}
            }
        )
        name = ".".join(part for part in parts[1:] if part != "__init__") or package
        rows.append([f"`{name}`", rule, ", ".join([*ours, *psi_parts]), ", ".join(others)])
    return table(["module", "its rule", "imports of ours", "of others"], iter(rows))


def package_table() -> str:
    """Each package, and the rule that its first line says."""
    rows = []
    for path in module_files():
        if path.name == "__init__.py" and len(path.relative_to(ROOT).parts) > 2:
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            rule = " ".join(said.split("\n\n")[0].split())
            rows.append([f"`{path.relative_to(ROOT).parent.as_posix()}/`", rule])
    return table(["package", "its rule"], iter(rows))


def _top(module: str) -> str:
    return module.partition(".")[0]


# -- the README on the site ----------------------------------------------------------------------

README_LINK = re.compile(r"\]\(([^)\s]+)\)")
# Where the site has the README's sections; nothing outside docs/ can be linked to from there.
README_ON_SITE = {
    "what-is-not-there-yet": "index.md",
    "a-task-of-your-own": "how-to/index.md",
    "who-learns-what": "explanation/threat-model.md",
    "what-is-not-protected-yet": "explanation/threat-model.md",
}


def readme_section(head: str, page: str) -> str:
    """A section of the README (or, without a heading, its beginning) for a page of the site."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    body = text.partition(f"## {head}\n" if head else "\n")[2]
    if not body:
        raise ValueError(f"the README has no section {head!r}")
    found = re.split(r"^## ", body, maxsplit=1, flags=re.MULTILINE)[0].strip()
    return README_LINK.sub(lambda link: f"]({_on_site(link[1], page)})", found)


def _on_site(link: str, page: str) -> str:
    """A link of the README, as the page has to write it."""
    if link.startswith("https://"):
        return link
    path, _, anchor = link.partition("#")
    target = path.removeprefix("docs/") if path else README_ON_SITE[anchor]
    up = "../" * page.count("/")
    shown = "" if target == page else up + target
    return shown + (f"#{anchor}" if anchor else "")


# -- whole pages ---------------------------------------------------------------------------------


def errors_page() -> str:
    """`docs/reference/errors.md`."""
    lines = [
        WHOLE_FILE,
        "",
        "# Errors",
        "",
        "Every error says which party, which phase and what to do. `except HeteroFedError` catches"
        " all of heterofed; what your own hook raises comes out unchanged, with a note.",
        "",
        "The *code* is what another party learns when the error ends the task. That party raises"
        " the class of the code, as a subclass of `TaskAborted` too.",
        "",
        "## The tree of `heterofed.errors`",
        "",
        "```text",
        indented_blocks(doc(heterofed.errors))[0],
        "```",
        "",
        *_error_entries(heterofed.errors, heterofed.errors.HeteroFedError),
        "## The tree of `psi.errors`",
        "",
        "Inside a task they come out as `PSIFailedError`; they show only where `psi` is used as a"
        " library.",
        "",
        "```text",
        re.sub(r"\A.*?\n\n", "", doc(psi.errors), count=1, flags=re.DOTALL),
        "```",
        "",
        *_error_entries(psi.errors, psi.errors.PSIError),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _error_entries(module: object, base: type[Exception]) -> Iterator[str]:
    for cls in vars(module).values():
        if not (inspect.isclass(cls) and issubclass(cls, base)):
            continue
        text = sections(doc(cls))[""]
        when, _, remedy = text.partition("What to do: ")
        yield f"### {cls.__name__}"
        yield ""
        parent = cls.__bases__[0].__name__
        code = vars(cls).get("code")
        yield f"Kind of: `{parent}`." + (f" Code: `{code}`." if code else "")
        yield ""
        yield f"When: {' '.join(when.split())}"
        yield ""
        if remedy:
            yield f"What to do: {' '.join(remedy.split())}"
            yield ""
        elif parent not in ("Exception", "PSIError"):
            yield f"What to do: see `{parent}`."
            yield ""


def hooks_page() -> str:
    """`docs/reference/hooks.md`."""
    host, collaborator = HeteroNNHostScheduler, HeteroNNCollaboratorScheduler
    names = list(dict.fromkeys([*_hooks(host), *_hooks(collaborator)]))
    lines = [
        WHOLE_FILE,
        "",
        "# Hooks",
        "",
        "The methods that you write. All of them run on the thread that called `launch_task`."
        " Instantiating a class that lacks a required one fails and names it.",
        "",
        table(
            ["hook", "Host", "Collaborator"],
            (
                [f"[`{name}`](#{name})", _is_needed(host, name), _is_needed(collaborator, name)]
                for name in names
            ),
        ),
        "",
    ]
    for name in names:
        owner = host if hasattr(host, name) else collaborator
        method = getattr(owner, name)
        signature = str(inspect.signature(method)).replace("'", "").replace("(self, ", "(")
        signature = signature.replace("(self)", "()")
        lines += [f"## {name}", "", "```python", f"{name}{signature}", "```", ""]
        lines += [as_markdown(doc(method)), ""]
    lines += [
        "## What hooks may read",
        "",
        "A class may assign any of these names itself; it then reads its own value, and nothing"
        " else changes.",
        "",
        table(
            ["attribute", "who", "what"],
            (
                [f"`self.{name}`", who, " ".join(doc(getattr(host, name)).split())]
                for name, who in _shown(host, collaborator)
            ),
        ),
        "",
        "`self.get_metrics(name)` gives a metrics set that `@register_metrics` declared.",
        "",
        "## Settings of the constructors",
        "",
    ]
    for cls in (host, collaborator):
        about = dict(entries(sections(doc(cls))["Args"]))
        given = list(inspect.signature(cls.__init__).parameters.values())[1:]
        lines += [
            f"### {cls.__name__}",
            "",
            "Those after `is_feature_trainable` are keywords only.",
            "",
            table(
                ["setting", "default", "what"],
                (
                    [
                        f"`{each.name}`",
                        "required" if each.default is each.empty else f"`{each.default!r}`",
                        about[each.name],
                    ]
                    for each in given
                ),
            ),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _hooks(cls: type) -> Iterator[str]:
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            if doc(member).startswith("Hook") and not isinstance(member, Shown | type):
                yield name


def _is_needed(cls: type, name: str) -> str:
    if not hasattr(cls, name):
        return ""
    return "required" if name in getattr(cls, "__abstractmethods__", ()) else "optional"


def _shown(host: type, collaborator: type) -> Iterator[tuple[str, str]]:
    for base in reversed(host.__mro__):
        for name, member in vars(base).items():
            if isinstance(member, Shown):
                yield name, "both" if hasattr(collaborator, name) else "Host"


def cli_page() -> str:
    """`docs/reference/cli.md`."""
    lines = [WHOLE_FILE, "", "# The `heterofed` command", "", doc(app.cli.callback), ""]
    codes = re.search(r"Exit codes: (.*)\.$", doc(app), re.MULTILINE)
    if codes is None:
        raise ValueError("the docstring of heterofed.cli.app says nothing of exit codes")
    lines += [
        "## Exit codes",
        "",
        table(["code", "meaning"], (each.split(" ", 1) for each in codes[1].split("; "))),
        "",
        *_options(app.cli),
    ]
    for name, command in _commands("heterofed", app.cli):
        lines += [f"## {name}", "", doc(command.callback), "", *_options(command)]
    return "\n".join(lines).rstrip() + "\n"


def _commands(path: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """The commands of a group and of the groups in it, with their arguments."""
    for name, command in sorted(group.commands.items()):
        arguments = [each for each in command.params if isinstance(each, click.Argument)]
        shown = [each.make_metavar(click.Context(command)) for each in arguments]
        yield " ".join([path, name, *shown]), command
        if isinstance(command, click.Group):
            yield from _commands(f"{path} {name}", command)


def _options(command: click.Command) -> list[str]:
    rows = []
    for option in command.params:
        if isinstance(option, click.Option):
            value = "" if option.is_flag else f" {option.make_metavar(click.Context(command))}"
            names = ", ".join(option.opts)
            default = option.default if isinstance(option.default, str | int | Path) else None
            shown = "" if option.is_flag or default is None else f"`{default}`"
            rows.append([f"`{names}{value}`", shown, option.help or ""])
    return [table(["option", "default", "what"], iter(rows)), ""] if rows else []


# -- writing -------------------------------------------------------------------------------------

PIECES: dict[str, Callable[[], str]] = {
    "states": state_diagram,
    "commit": commit_diagram,
    "messages": message_table,
    "plan": lambda: struct_table(Plan),
    "mark": lambda: struct_table(messages.Mark),
    "held": lambda: struct_table(messages.Held),
    "tensor-spec": lambda: struct_table(messages.TensorSpec),
    "dtypes": dtype_table,
    "limits": protocol_limits,
    "phase-limits": phase_limits,
    "wire-format": wire_format,
    "psi-parameters": psi_parameters,
    "packages": package_table,
    "modules-heterofed": lambda: module_table("heterofed"),
    "modules-psi": lambda: module_table("psi"),
    "readme-start": lambda: readme_section("", "index.md"),
    "readme-not-yet": lambda: readme_section("What is not there yet", "index.md"),
    "readme-task": lambda: readme_section("A task of your own", "how-to/index.md"),
    "readme-learns": lambda: readme_section("Who learns what", "explanation/threat-model.md"),
    "readme-unprotected": lambda: readme_section(
        "What is not protected yet", "explanation/threat-model.md"
    ),
}

PIECES |= {
    f"report-{cls.__name__.lower()}": functools.partial(field_table, cls)
    for cls in (*REPORT_STRUCTS, *EVALUATION_STRUCTS)
}

PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/errors.md": errors_page,
    "docs/reference/hooks.md": hooks_page,
    "docs/reference/cli.md": cli_page,
}


def filled(text: str) -> str:
    """A page with every generated piece made anew."""

    def renew(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        return f"{begin}\n{PIECES[name]()}\n\n{end}"

    return PIECE.sub(renew, text)


def pages() -> dict[Path, str]:
    """Every page that has something generated in it, as it should be."""
    wanted = {ROOT / name: make() for name, make in PAGES.items()}
    by_hand = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for path in by_hand:
        if path not in wanted and path.is_file():
            wanted[path] = filled(path.read_text(encoding="utf-8"))
    return wanted


def stale() -> dict[Path, str]:
    """The pages that are not as they should be."""
    return {
        path: text
        for path, text in pages().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with `--check` only name the stale ones."""
    if list(arguments) not in ([], ["--check"]):
        print(f"usage: {COMMAND} [--check]", file=sys.stderr)
        return 2
    checking = bool(arguments)
    found = stale()
    for path, text in found.items():
        name = path.relative_to(ROOT)
        if checking:
            print(f"stale: {name} (run `{COMMAND}`)", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if checking and found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
