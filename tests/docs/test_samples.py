"""What the README and the tutorial show runs, as real processes, and prints what they say."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest

from tests.docs.samples import README, blocks, printed, written
from tests.e2e.processes import ROOT, Parties, PartyProcess

TUTORIAL = ROOT / "docs/tutorial.md"
OWN_HOOKS = ROOT / "docs/own-hooks.md"


def start(parties: Parties, script: Path) -> PartyProcess:
    """A script, run in its own folder as a user would."""
    run = f"import os, runpy; os.chdir({str(script.parent)!r}); "
    return parties.start("-c", run + f"runpy.run_path({script.name!r}, run_name='__main__')")


def shape(output: str) -> list[str]:
    """Lines without numbers, units, paths and what depends on how busy the machine is.

    They have neither time nor party: a file has both on each line, and a terminal, as pages show
    it, has the time on the first line of each message.
    """
    output = re.sub(r"(?m)^([0-9-]+T\S+Z [A-Z]+ \S+ \S+:|[0-9:]{8}) +", "", output)
    lines = [line for line in output.splitlines() if "/" not in line or "[ROUND" in line]
    lines = [line for line in lines if "leak: " not in line]  # sampled as far as there is time
    shown = [" ".join(re.sub(r"[0-9.]+|\b[kM]?B\b", "#", line).split()) for line in lines]
    return [line for line in shown if "waiting for" not in line]


def accuracies(table: Path) -> list[float]:
    with table.open(newline="") as file:
        return [float(row["accuracy"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_readme_sample_runs(parties: Parties, tmp_path: Path) -> None:
    assert [path.name for path in written(README, tmp_path)] == ["host.py", "collaborator.py"]
    both = [start(parties, tmp_path / name) for name in ("collaborator.py", "host.py")]
    for party in both:
        assert party.wait() == 0, party.output
    folder = tmp_path / "heterofed_runs" / "first_task"
    assert accuracies(folder / "bank" / "test.csv")[-1] > 0.85
    tables = {"comm.csv", "outbound.csv"}
    models = {
        "events.jsonl",
        "feature_model.pt",
        "signature.json",
        "report.html",
        "status.json",
        "summary.json",
    } | tables
    host_only = {"test.csv", "train.csv", "feature_means.pt", "infer_model.pt"}
    # What leaked is sampled as far as there is time for it: on a busy machine, not at all.
    found = [{each.name for each in (folder / who).iterdir()} for who in ("bank", "shop")]
    assert [each - {"leakage.csv"} for each in found] == [models | host_only, models]


@pytest.mark.long
def test_own_hooks_run_and_prints_what_it_says(parties: Parties, tmp_path: Path) -> None:
    written(OWN_HOOKS, tmp_path)
    tables = start(parties, tmp_path / "make_tables.py")
    assert tables.wait() == 0, tables.output
    shop, bank = (start(parties, tmp_path / name) for name in ("shop.py", "bank.py"))
    for party in (shop, bank):
        assert party.wait() == 0, party.output
    run, files, prediction = printed(OWN_HOOKS)
    assert shape(bank.output) == shape(run)
    for line in files.splitlines():
        path, _, head = line.partition("  ")
        assert (tmp_path / path).is_file(), path
        if path.endswith(".csv") and head.strip():
            assert (tmp_path / path).read_text().splitlines()[0] == head.strip()
    predict = start(parties, tmp_path / "predict.py")
    assert predict.wait() == 0, predict.output
    answer = predict.output[predict.output.index("800 people") :]
    assert shape(answer) == shape(prediction)
    found = re.search(r"800 people, accuracy ([0-9.]+)", predict.output)
    assert found
    assert float(found[1]) > 0.95


def command(parties: Parties, line: str, folder: Path) -> PartyProcess:
    """A `$ heterofed ...` line of a page, run in a folder as a user would."""
    arguments = shlex.split(line)[1:]
    run = f"import os, sys; os.chdir({str(folder)!r}); sys.argv = ['heterofed', *{arguments!r}]; "
    return parties.start("-c", run + "from heterofed.cli import main; main()")


@pytest.mark.long
def test_tutorial_leads_from_tables_to_predictions(parties: Parties, tmp_path: Path) -> None:
    (script,) = written(TUTORIAL, tmp_path)
    tables = start(parties, script)
    assert tables.wait() == 0, tables.output
    lines = [line[2:] for each in blocks(TUTORIAL, "console") for line in each.splitlines()]
    check, train, train_too, serve, predict = lines
    checked = command(parties, check, tmp_path)
    assert checked.wait() == 0, checked.output
    output = ""
    for pair in ((train + " --rounds 2", train_too), (predict, serve)):
        both = [command(parties, each, tmp_path) for each in pair]
        for party in both:
            assert party.wait() == 0, party.output
        output += both[0].output
    said, predictions, files = printed(TUTORIAL)
    held = "\n".join(shape(output.replace("/2] loss", "/30] loss")))
    for line in shape(said):
        assert line in held, line
    found = (tmp_path / "predictions.csv").read_text().splitlines()
    assert found[0] == predictions.strip()
    for line in files.splitlines():
        assert (tmp_path / line.partition(" ")[0]).is_file(), line
    last = command_of_python(TUTORIAL)
    again = parties.start("-c", f"import os; os.chdir({str(tmp_path)!r})\n{last}")
    assert again.wait() == 0, again.output
    assert "a gain of" in again.output


def command_of_python(page: Path) -> str:
    """The last Python block of a page."""
    return blocks(page, "python")[-1]


def test_readme_shows_lines_as_they_are_printed() -> None:
    (shown, *_) = printed(README)
    rounds = [line for line in shown.splitlines() if "[ROUND" in line]
    assert [line.split("]")[0][-3:] for line in rounds] == [f"{n}/5" for n in range(1, 6)]


def test_psi_page_samples_run() -> None:
    seen: dict[str, object] = {}
    for code in blocks(ROOT / "docs/explanation/psi.md", "python"):
        exec(code, seen)
    assert seen["common"] == ["bob"]
    assert seen["shared"] == [["bob"]]
