"""The notebooks of the examples run from end to end, in kernels of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ROOT

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")

pytestmark = [
    pytest.mark.long,
    # A kernel and its client use what their own authors have deprecated.
    pytest.mark.filterwarnings("ignore:::(jupyter|nbclient|nbformat|zmq|traitlets|asyncio)"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NOTEBOOKS = ROOT / "examples" / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))


def ran(name: str, folder: Path, again: str = "") -> Any:
    """A notebook after all its cells; the cell that has `again` in it is there twice."""
    book = nbformat.read(NOTEBOOKS / name, as_version=4)
    repeated = [cell for cell in book.cells if again and again in cell.source]
    for cell in repeated:
        book.cells.insert(book.cells.index(cell), nbformat.v4.new_code_cell(cell.source))
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(book, timeout=200, kernel_name="python3", resources=place).execute()
    return book


def outputs(book: Any) -> list[Any]:
    return [each for cell in book.cells if cell.cell_type == "code" for each in cell.outputs]


def html(each: Any) -> str:
    found: str = each.get("data", {}).get("text/html", "")
    return found


@pytest.fixture(autouse=True)
def _home(home: Path) -> None:
    """A HETEROFED_HOME of the test's own."""


def test_notebooks_are_committed_without_outputs() -> None:
    assert len(NAMES) == 3
    for name in NAMES:
        book = nbformat.read(NOTEBOOKS / name, as_version=4)
        nbformat.validate(book)
        assert not outputs(book), name


def test_a_first_task_and_its_cell_once_more(tmp_path: Path) -> None:
    book = ran("first_task.ipynb", tmp_path, again="simulate(bank")
    assert not [each for each in outputs(book) if each.output_type == "stream"]  # no flood of lines
    first, second = (cell for cell in book.cells if "simulate(bank" in cell.source)
    for cell in (first, second):
        (card,) = cell.outputs
        assert html(card).count("<svg") >= 2
        assert "done" in html(card)
        log = re.search(r"<pre[^>]*>(.*?)</pre>", html(card), re.DOTALL)
        assert log is not None
        assert log[1].count("[ROUND 3/8]") == 1
        assert "<script" not in html(card)
    (last,) = (cell for cell in book.cells if cell.source == "done")
    shown = html(last.outputs[0])
    for said in ("bank: task first-task", "test: accuracy", "leak: ", "local", "shop: task"):
        assert said in shown, said
    assert (tmp_path / "heterofed_runs" / "first-task" / "bank.1").exists()


def test_your_tables(tmp_path: Path) -> None:
    book = ran("your_tables.ipynb", tmp_path)
    shown = "".join(map(html, outputs(book)))
    for said in ("binary model of bank and shop", "local", "a gain of", "ks"):
        assert said in shown, said
    assert sum("image/png" in each.get("data", {}) for each in outputs(book)) == 1


def test_what_leaks(tmp_path: Path) -> None:
    book = ran("what_leaks.ipynb", tmp_path)
    text = " ".join(each.get("data", {}).get("text/plain", "") for each in outputs(book))
    assert "shop can read the labels" in text
    assert "eps_labels" in text
    assert "worst attack" in text
