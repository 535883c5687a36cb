"""A model of the Host's columns that learns joint predictions, if all parties agreed to one."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from heterofed import simulate, simulate_prediction
from heterofed.cli.app import cli
from heterofed.errors import ConfigError, HeteroFedError, ResultsError
from heterofed.export import export
from heterofed.report.render import write_report
from heterofed.tabular import TabularCollaborator, TabularHost, TakeHome, fit
from heterofed.tabular.fitted import Fitted
from heterofed.tabular.take_home import model
from heterofed.tabular.take_home.student import Student
from tests.hetero_nn.test_prediction import Collaborator
from tests.hetero_nn.test_prediction import Host as OwnHost
from tests.identity.offices import open_offices
from tests.tabular.people import loans, written

IDS = {"bank": "customer", "shop": "client"}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A joint model of tables in which the bank has a hint of what the shop knows."""
    bank, shop = loans(400)
    known = shop.set_index("client")["spend"].reindex(bank["customer"])
    noise = pd.Series(range(len(bank))) % 7 - 3
    bank["hint"] = known.fillna(0).to_numpy() + noise
    return fit(
        {"bank": bank, "shop": shop},
        ids=IDS,
        label="defaulted",
        max_rounds=6,
        learning_rate=0.01,
        seed=1,
        baselines=(),
        results_dir=tmp_path_factory.mktemp("runs"),
    )


@pytest.fixture(scope="module")
def made(fitted: Fitted) -> TakeHome:
    return fitted.take_home(seed=0)


@pytest.mark.slow
def test_it_is_compared_with_the_joint_and_the_local_model(made: TakeHome, fitted: Fitted) -> None:
    found = made.compared
    assert found.metric == "auc"
    assert found.joint == pytest.approx(fitted.evaluations["joint"].metrics["auc"], abs=1e-6)
    assert 0.6 < found.take_home < found.joint
    assert found.lost.value == pytest.approx(found.joint - found.take_home)
    assert found.gained.value == pytest.approx(found.take_home - found.local)
    assert found.test_rows + found.train_rows == fitted.result.ids
    assert f"{found.joint:.4f} joint, {found.take_home:.4f} take-home" in str(found)


@pytest.mark.slow
def test_it_predicts_every_row_of_a_table_without_a_partner(
    made: TakeHome, fitted: Fitted, tmp_path: Path
) -> None:
    bank = loans(400)[0].assign(hint=0.0).sample(frac=1, random_state=3)
    again = TakeHome.load(fitted.result.folder)
    assert again.compared == made.compared
    frame = again.predict(bank, ids="customer")
    assert frame["customer"].tolist() == bank["customer"].tolist()
    assert frame.columns.tolist() == ["customer", "probability"]
    assert frame["probability"].between(0, 1).all()
    assert frame["probability"].nunique() > 50
    pd.testing.assert_frame_equal(frame, made.predict(bank, ids="customer"))
    card = json.loads(export(fitted.result.folder / "take_home", tmp_path / "out").read_text())
    assert sorted(card["halves"]) == ["feature_model", "infer_model"]


@pytest.mark.slow
def test_the_report_says_what_it_loses(made: TakeHome, fitted: Fitted) -> None:
    page = write_report(fitted.result.folder).read_text()
    assert "take-home model" in page
    assert f"{made.compared.take_home:.4g}" in page


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression", "counts"])
@pytest.mark.slow
def test_every_kind_of_task(kind: str, tmp_path: Path) -> None:
    bank, shop = loans(200)
    label: Any = {"regression": "risk", "multiclass": "city", "counts": "visits"}.get(kind)
    bank["visits"] = (bank["risk"].abs() * 3).round().astype(int)
    if kind == "multilabel":
        label = ["defaulted", "rich"]
        bank["rich"] = bank["risk"] > 0
    given: dict[str, Any] = {"results_dir": tmp_path, "max_rounds": 2, "baselines": ()}
    fitted = fit({"bank": bank, "shop": shop}, ids=IDS, label=label, kind=kind, **given)
    made = fitted.take_home()
    assert len(made.predict(bank, ids="customer")) == len(bank)
    assert made.compared.test_rows


@pytest.mark.slow
def test_without_columns_there_is_nothing_to_take_home(tmp_path: Path) -> None:
    bank, shop = loans(80)
    given: dict[str, Any] = {"results_dir": tmp_path, "max_rounds": 1, "baselines": ()}
    only = bank[["customer", "defaulted"]]
    fitted = fit({"bank": only, "shop": shop}, ids=IDS, label="defaulted", **given)
    with pytest.raises(ConfigError, match="no columns of its own"):
        fitted.take_home()
    with pytest.raises(ConfigError, match="make one first"):
        TakeHome.load(fitted.result.folder)


# -- what cannot be read or written -----------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_leaves_the_model_before(
    made: TakeHome, fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, put = fitted.result.folder, model._put

    def full(path: Path, content: bytes) -> None:
        if path.name == "compared.json":
            raise OSError(28, "No space left on device")
        put(path, content)

    monkeypatch.setattr(model, "_put", full)
    with pytest.raises(ResultsError, match="No space left"):
        fitted.take_home(seed=1)
    assert TakeHome.load(folder).compared == made.compared
    assert not [each.name for each in folder.iterdir() if each.name.startswith(".take_home")]


@pytest.mark.slow
@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("compared.json", b"{", "cannot be read; make the model again"),
        ("compared.json", b"\xff", "cannot be read; make the model again"),
        ("feature_model.pt", b"", "cannot be read"),
        ("feature_model.pt", b"PK\x03\x04 torn", "cannot be read"),
        ("infer_model.pt", "feature_model.pt", "is of another model|are of another model"),
        ("summary.json", b"[]", "holds no|no run|cannot be read|is damaged"),
        ("summary.json", None, "holds no|no run|cannot be read"),
    ],
)
def test_a_damaged_model_is_named(
    name: str, content: bytes | str | None, told: str, fitted: Fitted, tmp_path: Path
) -> None:
    folder = shutil.copytree(fitted.result.folder / "take_home", tmp_path / "take_home")
    (folder / name).unlink()
    if content is not None:
        given = (folder / content).read_bytes() if isinstance(content, str) else content
        (folder / name).write_bytes(given)
        (folder / name).chmod(0o600)
    with pytest.raises(ConfigError, match=told):
        TakeHome.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"{", b"[]", b'{"tables": 1}', None])
def test_a_damaged_evaluation_is_named_before_anything_is_trained(
    content: bytes | None, fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fitted.result.folder / "evaluation.json"
    before = path.read_bytes()
    monkeypatch.setattr(Student, "learn", None)
    try:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"evaluation\.json cannot be read"):
            fitted.take_home()
    finally:
        path.write_bytes(before)


@pytest.mark.slow
def test_tables_that_cannot_be_predicted_are_named(made: TakeHome) -> None:
    bank = loans(40)[0].assign(hint=0.0)
    for table, told in (
        (bank[:0], "no row"),
        (bank.drop(columns="risk"), "risk"),
        (bank.assign(risk="high"), "risk"),
        (bank.drop(columns="customer"), "customer"),
        (pd.concat([bank, bank]), "the same id stands in both"),
    ):
        with pytest.raises(HeteroFedError, match=told):
            made.predict(table, ids="customer")


# -- consent ---------------------------------------------------------------------------------


def parties(folder: Path) -> tuple[Any, Any]:
    """What makes the Host and the Collaborator."""
    mine, theirs = loans(120)

    def host(**more: Any) -> TabularHost:
        given = {"label": "defaulted", "psi_protocol": "ecdh", "join_timeout": 60, **more}
        return TabularHost("alice", mine, ids="customer", results_dir=folder, **given)

    def shop() -> TabularCollaborator:
        given: dict[str, Any] = {"results_dir": folder, "join_timeout": 60}
        return TabularCollaborator("shop", theirs, ids="client", **given)

    return host, shop


@pytest.mark.parametrize("terms", ["none", "without", "with"])
@pytest.mark.slow
def test_it_needs_the_consent_of_the_terms(home: Path, tmp_path: Path, terms: str) -> None:
    host, shop = parties(tmp_path)
    simulate(host(max_rounds=1), [shop()], task_id="t")
    if terms != "none":
        allowed = ["take_home=true"] if terms == "with" else []
        open_offices(home, ["shop"], task="t", plan=["psi_protocol=ecdh", *allowed])
    if terms == "with":
        serving = threading.Thread(
            target=shop().serve_predictions,
            args=("t",),
            kwargs={"requests": 1, "max_rows_per_day": 1_000},
            daemon=True,
        )
        serving.start()
        assert host().take_home("t").compared.test_rows
        serving.join(30)
        log = (tmp_path / "t/alice/predictions/log.jsonl").read_text()
        assert json.loads(log)["take_home"] is True
        return
    why = {"none": "no task file of 't'", "without": "task file of 't' does not allow it"}[terms]
    with pytest.raises(ConfigError, match=why) as refused:  # and waits for nobody
        host().take_home("t")
    assert "take_home = true" in str(refused.value)
    assert not (tmp_path / "t/alice/take_home").exists()


@pytest.mark.slow
def test_predictions_of_hooks_of_your_own_need_it_too(home: Path, tmp_path: Path) -> None:
    open_offices(home, ["bob"], plan=["psi_protocol=ecdh"])
    host, others = OwnHost(tmp_path), [Collaborator(tmp_path)]
    simulate(host, others, task_id="tiny")
    with pytest.raises(ConfigError, match="does not allow it"):
        host.predict("tiny", take_home=True)
    done = simulate_prediction(host, others, task_id="tiny", take_home=True)
    assert len(done.results["alice"])  # in one process there is nothing to consent to


def test_consent_is_a_term_and_changes_no_digest_without_it(home: Path) -> None:
    from heterofed.identity.task_file import load_task
    from heterofed.identity.task_terms import shown_terms

    plain = load_task(open_offices(home, ["bob"], task="plain"))
    agreed = load_task(open_offices(home, ["bob"], task="agreed", plan=["take_home=true"]))
    assert b"take_home" not in plain.terms()
    assert shown_terms(agreed.terms())["take_home"] == "true"


# -- the command -----------------------------------------------------------------------------


def heterofed(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def test_the_command_refuses_before_it_meets_anybody(home: Path, tmp_path: Path) -> None:
    (bank,) = written(tmp_path, loans=loans(60)[0])
    where: list[str | Path] = ["--task", "t", "--results", tmp_path / "runs"]
    done = heterofed("table", "take-home", bank, *where)
    assert "train first" in str(done.exception)
    done = heterofed("table", "predict", bank, *where, "--take-home")
    assert "train first" in str(done.exception)
    done = heterofed("table", "predict", bank, *where, "--take-home", "--role", "collaborator")
    assert done.exit_code == 2
    assert "--take-home" in done.output


@pytest.mark.slow
def test_the_command_predicts_alone(home: Path, tmp_path: Path, fitted: Fitted) -> None:
    del home
    (bank,) = written(tmp_path, loans=loans(60)[0].assign(hint=0.0))
    folder, out = fitted.result.folder, tmp_path / "alone.csv"
    (folder / "table.json").write_text(json.dumps({"ids": ["customer"]}))
    fitted.take_home(seed=0)
    where: list[str | Path] = ["--task", folder.parent.name, "--results", folder.parents[1]]
    where += ["--party", "bank"]
    done = heterofed("table", "predict", bank, *where, "--take-home", "--out", out, "--json")
    assert done.exception is None, done.output
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == len(pd.read_csv(out)) == 57
    done = heterofed("table", "take-home", bank, *where)
    assert "which column is the label" in str(done.exception)
