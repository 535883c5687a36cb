"""Imports point downward, libraries stay where they belong, and the public door is in order."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import pytest

import heterofed
import psi

ROOT = Path(__file__).resolve().parents[1]

# A module may import from its own package and from packages of the layers below.
LAYERS = [
    ["heterofed._version", "heterofed.errors"],
    ["heterofed.events", "heterofed.files", "heterofed.protocol"],
    ["heterofed.compute", "heterofed.metrics", "heterofed.transport"],
    ["heterofed.reporting"],
    ["heterofed.identity", "heterofed.messaging"],
    ["heterofed.privacy", "heterofed.rendezvous"],
    ["heterofed.data", "heterofed.report"],
    ["heterofed.watch"],
    ["heterofed.runs"],
    ["heterofed.export", "heterofed.intersection", "heterofed.scheduler", "heterofed.streams"],
    ["heterofed.hetero_nn", "heterofed.homo_nn"],
    ["heterofed.simulation"],
    ["heterofed.baselines"],
    ["heterofed.serving", "heterofed.tabular"],
    ["heterofed.cli"],
    ["heterofed.__main__"],
]
ALONE = {
    "zmq": ["heterofed/transport/zeromq/"],
    "gmpy2": ["psi/"],
    "cryptography": [
        "heterofed/compute/streams",
        "heterofed/identity/signing",
        "heterofed/privacy/mask",
        "heterofed/privacy/noise",
        "heterofed/runs/records/sealed",
        "heterofed/serving/tls",
        "psi/",
    ],
    "rbcl": ["psi/"],
    "opacus": ["heterofed/privacy/dpsgd"],
    "starlette": ["heterofed/serving/api", "heterofed/watch/app", "heterofed/watch/guard"],
    "httptools": ["heterofed/transport/http/"],
    "uvicorn": ["heterofed/transport/http/"],
    "optuna": ["heterofed/tabular/search"],
    "sklearn": ["heterofed/tabular/"],
    "rich": [
        "heterofed/cli/table_check",
        "heterofed/reporting/progress",
        "heterofed/reporting/terminal",
    ],
    "IPython": ["heterofed/reporting/notebook"],
    "jinja2": ["heterofed/report/render"],
    "duckdb": ["heterofed/tabular/sources/"],
    "sqlalchemy": ["heterofed/tabular/sources/sql"],
    "phonenumbers": ["heterofed/tabular/ids/writing"],
    "click": ["heterofed/cli", "docs/generator/cli_page"],
}
NO_TORCH = [
    "heterofed.messaging.party",
    "heterofed.runs.lifecycle",
    "heterofed.cli",
    "heterofed.report.render",
    "heterofed.report.gather",
    "heterofed.watch.app",
    "heterofed.hetero_nn.psi",
    "heterofed.cli.psi",
    "heterofed.protocol",
    "heterofed.identity.receipt.check",
    "heterofed.tabular.ids",
    "heterofed.tabular.inspect",
    "psi",
]


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


OURS = [*modules("heterofed"), *modules("psi")]


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a module; parsed once, since each rule reads every module."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def tree_of(path: Path) -> ast.Module:
    module = nodes_of(path)[0]
    assert isinstance(module, ast.Module)
    return module


@cache
def imports(path: Path) -> list[str]:
    found: list[str] = []
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return found


def layer_of(module: str) -> int | None:
    for height, names in enumerate(LAYERS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return height
    return None


def package_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_imports_point_downward() -> None:
    # The public door, `heterofed`, names all of it, lazily.
    paths = [path for path in modules("heterofed") if name_of(path) != "heterofed"]
    nowhere = [name_of(path) for path in paths if layer_of(name_of(path)) is None]
    assert not nowhere, "these stand in no layer: add them to LAYERS"
    upward = [f"{name_of(path)} imports {each}" for path in paths for each in imported_upward(path)]
    assert not upward, "what a module imports stands below it"


def imported_upward(path: Path) -> Iterator[str]:
    module = name_of(path)
    own = layer_of(module)
    assert own is not None
    for imported in imports(path):
        other = layer_of(imported)
        if other is not None and other >= own and package_of(imported) != package_of(module):
            yield imported


def imported_when_run(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    """Imports of a module and of its functions; not those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node
        yield from imported_when_run(node)


@cache
def needed() -> dict[str, set[str]]:
    """Of each module of ours the modules of ours that it imports, now or late."""
    paths = {name_of(path): path for path in OURS}
    return {
        module: {
            f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in paths else node.module
            for node in imported_when_run(tree_of(path))
            if node.module
            for alias in node.names
        }
        & paths.keys()
        for module, path in paths.items()
    }


def test_no_circle() -> None:
    """No modules import each other, neither when they load nor by imports within functions."""
    below = dict(needed())
    while leaves := [module for module, above in below.items() if not above & below.keys()]:
        for module in leaves:
            del below[module]
    assert not below, f"these import each other: {sorted(below)}"


def test_the_house_is_small() -> None:
    """No more packages and modules at the top than a newcomer can keep in mind, and no arrow from
    each to each.
    """
    ours = {name: others for name, others in needed().items() if name.startswith("heterofed")}
    rooms = set(map(package_of, ours))
    arrows = {
        (package_of(module), package_of(other))
        for module, others in ours.items()
        for other in others & ours.keys()
    }
    assert len(rooms) <= 30, sorted(rooms)
    assert len({(one, other) for one, other in arrows if one != other}) <= 153


OF_OTHER_LIBRARIES = {
    "_make": "named tuples, documented",
    "_metadata": "the versions in a state_dict of torch",
    "_buffers": "the buffers of a torch module",
    "_non_persistent_buffers_set": "which of them stay out of its state_dict",
    "_get_sequence_nr": "the number of the next node of a torch graph",
    "_sequence_nr": "the order of a torch graph",
    "_version": "how often a torch tensor was changed",
    "_C": "torch's own functions, as its checkpointing uses them",
    "_autograd": "those of autograd",
    "_unsafe_set_version_counter": "how often a tensor was changed that stands for another one",
    "_get_current_graph_task_keep_graph": "whether a graph of torch is kept after backward",
    "_schema": "which arguments of an operation of torch it changes",
    "_current_graph_task_id": "whether a backward pass of torch is running",
    "_top_saved_tensors_default_hooks": "whether a checkpoint saves what is computed",
    "_sodium": "the library within rbcl",
}
"""Names with an underscore that other libraries have no public name for."""


def private_of_others(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Accesses to a private name of an object that is not of a class of the same module."""
    own = {
        *(each.target.id for each in nodes if is_annotated_name(each)),
        *(each.name for each in nodes if isinstance(each, ast.FunctionDef)),
        *(
            each.attr
            for each in nodes
            if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store) and is_self(each)
        ),
    }
    for node in nodes:
        if not isinstance(node, ast.Attribute) or is_self(node):
            continue
        name = node.attr
        is_private = name.startswith("_") and not name.startswith("__")
        if is_private and name not in own and name not in OF_OTHER_LIBRARIES:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def is_annotated_name(node: ast.AST) -> TypeGuard[Any]:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def is_self(node: ast.Attribute) -> bool:
    of = node.value
    if isinstance(of, ast.Call):  # super()
        return isinstance(of.func, ast.Name) and of.func.id == "super"
    return isinstance(of, ast.Name) and of.id in ("self", "cls")


def test_what_is_private_to_an_object_is_left_to_it() -> None:
    found = {name_of(path): list(private_of_others(nodes_of(path))) for path in OURS}
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("host._guard.note()", True),
        ("def f(host):\n    host._settings = 1", True),
        ("class A:\n    _engine: int\ndef engine_of(a):\n    return a._engine", False),
        ("class A:\n    def f(self):\n        return self._x + super()._x", False),
        ("tensor._version", False),
    ],
)
def test_the_rule_on_private_names_finds(code: str, found: bool) -> None:
    assert bool(list(private_of_others(list(ast.walk(ast.parse(code)))))) == found


MOST_LINES = 60


def test_functions_are_short() -> None:
    """Constructors apart, which name each setting in a line of its own."""
    long = [
        f"{path}: {each.name} ({each.end_lineno - each.lineno + 1})"
        for path in OURS
        for each in nodes_of(path)
        if isinstance(each, ast.FunctionDef) and each.end_lineno is not None
        if each.end_lineno - each.lineno >= MOST_LINES and each.name != "__init__"
    ]
    assert long == [], f"longer than {MOST_LINES} lines"


def test_every_package_says_its_rule() -> None:
    packages = {path.parent / "__init__.py" for path in modules("heterofed")}
    assert [str(path) for path in packages if not ast.get_docstring(tree_of(path))] == []


def test_psi_stands_alone() -> None:
    for path in modules("psi"):
        above = {each.split(".")[0] for each in imports(path)} & {"heterofed", "torch", "zmq"}
        assert not above, (path, above)


@pytest.mark.parametrize("library", ALONE)
def test_libraries_stay_where_they_belong(library: str) -> None:
    for path in OURS:
        if library in {each.split(".")[0] for each in imports(path)}:
            where = path.relative_to(ROOT).as_posix()
            assert any(where.startswith(allowed) for allowed in ALONE[library]), where


@pytest.mark.parametrize("module", NO_TORCH)
def test_loads_without_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("package", [heterofed, psi], ids=lambda each: each.__name__)
def test_public_door_is_sorted_and_opens(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(package, name) is not None


def test_importing_has_no_side_effects(tmp_path: Path) -> None:
    code = (
        "import logging, os, sys\n"
        "before = dict(os.environ)\n"
        "import heterofed, heterofed.hetero_nn, heterofed.cli.app\n"
        "assert dict(os.environ) == before\n"
        "assert not logging.getLogger('heterofed').handlers and not logging.root.handlers\n"
        "assert os.listdir('.') == [], os.listdir('.')\n"
    )
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


MAKES_FILES = {
    *("mkdir", "makedirs", "mkdtemp", "mkstemp", "touch", "write_text", "write_bytes"),
    *("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "TemporaryDirectory"),
    *("FileLock", "SoftFileLock", "UnixFileLock", "FileHandler", "RotatingFileHandler"),
    *("symlink", "symlink_to", "hardlink_to", "renames", "chmod", "fchmod", "mkfifo", "mknod"),
    *("copyfile", "copytree", "umask", "to_csv", "to_parquet", "tofile", "savetxt", "savez"),
}
"""Calls that create a folder or a file, or change whose it is."""

OF_LIBRARY = {
    "os": {"truncate", "rename", "replace", "link"},
    "shutil": {"copy", "copy2", "move", "make_archive", "unpack_archive"},
}
"""Such calls whose names other objects have, too."""

OF_PATHS = {"save", "savefig", "save_file", "ParquetWriter"}
"""Calls that do so where they are given a path; an open file is another's."""


def makes_a_file(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    of = getattr(getattr(call.func, "value", None), "id", "")
    if name in MAKES_FILES or name in OF_LIBRARY.get(of, ()):
        return True
    if name in ("replace", "rename"):  # of a path, which takes one argument, and no keyword
        return of != "structs" and len(call.args) == 1 and not call.keywords
    if name in OF_PATHS:
        is_ours = name == "save" and len(call.args) == 1  # a method of ours, which has a writer
        return not is_ours and any(map(is_path, call.args))
    if name != "open":
        return False
    if of == "os":
        return "O_RDONLY" not in ast.unparse(call)
    modes = [*call.args, *(each.value for each in call.keywords if each.arg == "mode")]
    words = [each.value for each in modes if isinstance(each, ast.Constant)]
    return any(isinstance(each, str) and set(each) & set("wax+") for each in words)


def is_path(node: ast.expr) -> bool:
    said = ast.unparse(node)
    return "path" in said.lower() or "folder" in said or isinstance(node, ast.JoinedStr | ast.BinOp)


def test_one_place_makes_files() -> None:
    """All others call it: there is no other way to a mode, or past a link that was planted."""
    found = [
        f"{path}:{node.lineno}: {ast.unparse(node)}"
        for path in OURS
        if not path.is_relative_to(ROOT / "heterofed/files")
        if path != ROOT / "psi/storage/files.py"
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and makes_a_file(node)
    ]
    assert not found, "use heterofed.files (in psi: psi.storage.files)"


@pytest.mark.parametrize(
    "code",
    [
        "open('a', 'w')",
        "path.open('ab')",
        "path.open(mode='r+')",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "path.write_text('')",
        "path.replace(other)",
        "os.replace(a, b)",
        "torch.save(state, path)",
        "np.save(folder / 'a', x)",
        "FileLock('a')",
        "shutil.copy(a, b)",
        "frame.to_csv(out)",
    ],
)
def test_the_rule_on_files_finds(code: str) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert makes_a_file(call)


def test_the_page_sends_readers_to_files_that_there_are() -> None:
    page = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    table = page[page.index("## Where a change goes") : page.index("## Modules of")]
    named = re.findall(r"`([a-z_/]+(?:\.py|/))`", table)
    assert len(named) > 25
    assert [
        each
        for each in named
        if not (ROOT / each).exists() and not (ROOT / "heterofed" / each).exists()
    ] == []


def test_folders_of_tests_mirror_the_packages() -> None:
    """Beside them stand those that test no one package: whole tasks, hostile peers, performance."""
    parts = {each.stem for each in (ROOT / "heterofed").iterdir()}
    parts |= {"psi", "docs", "examples", "scoreboard"}
    folders = {each.parent.relative_to(ROOT / "tests").parts for each in ROOT.glob("tests/**/*.py")}
    named = {first for first, *_ in filter(None, folders)}
    assert not named - parts - {"e2e", "adversarial", "performance"}
