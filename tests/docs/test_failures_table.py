"""The table of failures: every row of it is held by tests that there are."""

from __future__ import annotations

import ast

import pytest

from tests.e2e.processes import ROOT

PAGE = ROOT / "docs" / "explanation" / "resume.md"
RESUME, FAILURES = "tests/runs/test_resume.py", "tests/messaging/test_failures.py"

HELD_BY = {
    "a TCP connection is cut": ["tests/e2e/test_cuts.py::test_cuts_in_every_phase_change_nothing"],
    "kill -9, crash, machine gone": [
        f"{FAILURES}::test_kill_9",
        f"{RESUME}::test_all_started_again",
        f"{RESUME}::test_one_started_again_while_the_other_waits",
        f"{RESUME}::test_nobody_waits_for_ever",
    ],
    "lost while the ids are intersected": [
        "tests/intersection/test_psi_resume.py::test_a_killed_command_goes_on",
        "tests/intersection/test_psi_resume.py::test_killed_while_the_last_signatures_are_on_their_way",
    ],
    "it stands still, heartbeats too": [
        "tests/messaging/test_deadlines.py::test_a_party_that_hangs_dead_is_lost"
    ],
    "it hangs, link up": ["tests/e2e/test_contract.py::test_calculation_timeout_ends_a_silence"],
    "Ctrl-C or SIGTERM": [f"{FAILURES}::test_signals"],
    "an exception in a hook": [f"{FAILURES}::test_exception_in_a_hook"],
    "out of memory in a hook": [f"{RESUME}::test_out_of_memory"],
    "disk full at a checkpoint": [
        f"{RESUME}::test_a_full_disk_ends_the_task_by_name_and_loses_nothing"
    ],
    "disk full at another file: a CSV, a model": [
        f"{RESUME}::test_results_that_cannot_be_written_lose_nothing"
    ],
    "the results folder goes while it runs": [f"{RESUME}::test_a_results_folder_that_is_gone"],
    "its newest checkpoint is damaged": [
        f"{RESUME}::test_a_damaged_checkpoint_is_noticed_and_the_one_before_used"
    ],
    "both of its checkpoints are damaged": [
        f"{RESUME}::test_without_a_common_checkpoint_a_new_run_begins",
        f"{RESUME}::test_who_comes_back_with_nothing_is_turned_away",
    ],
    "comes back without its results folder": [
        f"{RESUME}::test_a_record_that_is_damaged_means_a_new_run",
        f"{RESUME}::test_who_comes_back_with_nothing_is_turned_away",
        f"{RESUME}::test_a_host_that_comes_back_with_nothing_begins_anew",
    ],
    "started again with other ids, models or optimizers": [
        f"{RESUME}::test_other_ids",
        f"{RESUME}::test_another_model",
        f"{RESUME}::test_another_optimizer",
        f"{RESUME}::test_another_trainability",
    ],
    "started again with other settings at the Host, or another defence": [
        f"{RESUME}::test_another_plan",
        f"{RESUME}::test_how_long_to_wait_may_change",
        "tests/runs/test_resume_options.py::test_settings_of_one_party_are_those_that_the_run_began_with",
    ],
    "a Collaborator is lost after `Finish`": [
        f"{RESUME}::test_killed_between_finish_and_goodbye",
        f"{RESUME}::test_a_host_that_waits_hears_the_last_goodbye",
        f"{RESUME}::test_who_never_says_goodbye_costs_only_the_wait",
    ],
    "the Host is lost after `Finish`": [
        f"{RESUME}::test_a_host_killed_before_the_goodbyes_does_not_wait_for_them",
        f"{RESUME}::test_a_complete_host_lets_nobody_in_who_begins_anew",
    ],
}


def rows() -> list[str]:
    """The first cell of each row."""
    section = PAGE.read_text().partition("## What each party sees")[2]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]]


@pytest.mark.slow
def test_every_row_has_tests() -> None:
    assert rows() == list(HELD_BY)
    for tests in HELD_BY.values():
        for test in tests:
            path, _, name = test.partition("::")
            tree = ast.parse((ROOT / path).read_text())
            assert name in {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}
