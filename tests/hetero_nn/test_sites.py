"""Sites of a role train exactly the joined model, whatever rows each of them has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from heterofed import Batch, simulate
from heterofed import errors as e
from heterofed.compute.alignment import sorted_by_lot
from heterofed.hetero_nn.sites.relay import SumRelay
from heterofed.identity.task_file import check_task, render
from heterofed.identity.task_terms import settle
from heterofed.privacy.dpsgd import DPSGD
from heterofed.protocol.messages import SiteSum
from heterofed.protocol.plan import Plan, RoleSites
from heterofed.simulation.baselines import compare
from heterofed.simulation.simulate import Simulation
from tests.docs.samples import executed
from tests.e2e.processes import ROOT, Parties
from tests.e2e.tiny import run
from tests.hetero_nn.sites_tiny import (
    BATCH,
    IDS,
    Bank,
    Party,
    averaged,
    joined,
    parties,
    site_of,
    split,
)
from tests.runs.test_resume import CrashError, crashing

NEAR: dict[str, Any] = {"rtol": 0, "atol": 1e-10}
TWO, THREE = ("north", "south"), ("north", "south", "west")


def state(folder: Path, party: str, name: str = "feature_model") -> dict[str, torch.Tensor]:
    path = folder / "sites" / party / f"{name}.pt"
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return found


def same(folder: Path, sites: tuple[str, ...]) -> bool:
    """Whether all sites have the same weights, bit for bit."""
    first, *others = [list(state(folder, f"shop.{site}").values()) for site in sites]
    return all(torch.equal(a, b) for each in others for a, b in zip(first, each, strict=True))


@pytest.mark.parametrize(
    ("sites", "kind"),
    [
        (THREE, "sgd"),
        pytest.param(TWO, "sgd", marks=pytest.mark.slow),
        pytest.param(TWO, "adam", marks=pytest.mark.slow),
        pytest.param(THREE, "adam", marks=pytest.mark.slow),
    ],
)
def test_sites_train_the_joined_model(sites: tuple[str, ...], kind: str, tmp_path: Path) -> None:
    bank, others = parties(tmp_path, sites, kind=kind)
    simulate(bank, others, task_id="sites")
    train = sorted(split(IDS)[0])
    losses, models = joined([train] * 2, kind)
    rows = [{site_of(i, sites) for i in train[s : s + BATCH]} for s in range(0, len(train), BATCH)]
    assert any(len(each) < len(sites) for each in rows), "a site has no row of some batch"
    assert len(bank.losses) == len(losses) == 2 * len(rows)
    torch.testing.assert_close(torch.tensor(bank.losses), torch.tensor(losses), **NEAR)
    for party, name in [(f"shop.{site}", "shop") for site in sites] + [("lab", "lab")]:
        torch.testing.assert_close(state(tmp_path, party), models[name].state_dict(), **NEAR)
    top = state(tmp_path, "bank", "infer_model")
    torch.testing.assert_close(top, models["infer"].state_dict(), **NEAR)
    assert same(tmp_path, sites)
    assert [len(each) for each in bank.tested] == [8, 2]


@pytest.mark.slow
def test_shuffled_rounds_with_checkpoints_within(tmp_path: Path) -> None:
    bank, others = parties(tmp_path, TWO, lab=False, shuffle=True, checkpoint_batches=3)
    simulate(bank, others, task_id="sites")
    plan, train = bank._heterofed.run.plan, sorted(split(IDS)[0])  # type: ignore[union-attr]
    order = [sorted_by_lot(train, seed=plan.seed, round_number=n + 1) for n in range(2)]
    assert order[0] != order[1] != train
    losses, models = joined(order, lab=False)
    torch.testing.assert_close(torch.tensor(bank.losses), torch.tensor(losses), **NEAR)
    for site in TWO:
        torch.testing.assert_close(
            state(tmp_path, f"shop.{site}"), models["shop"].state_dict(), **NEAR
        )


@pytest.mark.parametrize(
    ("every", "kind"),
    [
        (3, "sgd"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in [(1, "sgd"), (4, "adam")]),
    ],
)
def test_sites_that_share_weights_train_as_fedavg(every: int, kind: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"sites_share": "weights", "sites_every": every, "kind": kind}
    bank, others = parties(tmp_path, THREE, **given)
    simulate(bank, others, task_id="sites")
    train = sorted(split(IDS)[0])
    assert len(train) // BATCH % 3, "the last average of a round comes early"
    losses, models = averaged([train] * 2, THREE, every, kind)
    torch.testing.assert_close(torch.tensor(bank.losses), torch.tensor(losses), **NEAR)
    torch.testing.assert_close(state(tmp_path, "shop.west"), models["shop"].state_dict(), **NEAR)
    assert same(tmp_path, THREE)


class Unused(Bank):
    """A Host whose loss leaves the shop out in every second batch."""

    def train_a_batch(self, feature_projection: Any, labels: torch.Tensor) -> torch.Tensor:
        if len(self.losses) % 2:
            shop = feature_projection["shop"]
            feature_projection = {**feature_projection, "shop": torch.zeros_like(shop)}
        return super().train_a_batch(feature_projection, labels)


@pytest.mark.slow
def test_features_that_the_loss_left_out_make_no_step(tmp_path: Path) -> None:
    bank, others = parties(tmp_path, TWO, lab=False, bank_class=Unused, kind="adam")
    simulate(bank, others, task_id="sites")
    losses, models = joined([sorted(split(IDS)[0])] * 2, "adam", lab=False, leaves_out=2)
    torch.testing.assert_close(torch.tensor(bank.losses), torch.tensor(losses), **NEAR)
    torch.testing.assert_close(state(tmp_path, "shop.south"), models["shop"].state_dict(), **NEAR)


# -- whose ids they are --------------------------------------------------------------------------


def overlapping(folder: Path, **settings: Any) -> tuple[Bank, list[Party]]:
    """Two sites that both have the ids from p030 to p059."""
    bank, _ = parties(folder, TWO, lab=False, max_rounds=1, **settings)
    sites = zip(TWO, (IDS[:60], IDS[30:]), (3, 4), strict=True)
    return bank, [Party(folder, "shop", ids, seed=seed, site=site) for site, ids, seed in sites]


@pytest.mark.slow
def test_an_id_at_two_sites_is_an_error_with_a_count(tmp_path: Path) -> None:
    with pytest.raises(e.SitesOverlapError, match="30 ids are at more than one site of shop"):
        simulate(*overlapping(tmp_path), task_id="sites")


@pytest.mark.slow
def test_the_first_site_may_have_them(tmp_path: Path) -> None:
    bank, others = overlapping(tmp_path, sites_overlap="first")
    simulate(bank, others, task_id="sites")
    north, south = (each._heterofed.run.state for each in others)  # type: ignore[union-attr]
    assert north.train_ids == IDS[:60]
    assert (south.train_ids, south.test_ids) == (IDS[60:80], IDS[80:])
    losses, _ = joined([IDS[:80]], lab=False)
    torch.testing.assert_close(torch.tensor(bank.losses), torch.tensor(losses), **NEAR)


# -- what cannot be one model --------------------------------------------------------------------


def wrong(
    change: Callable[[list[Any]], None], folder: Path, kind: type[Exception], match: str
) -> None:
    bank, others = parties(folder, TWO, lab=False)
    change(others)
    with pytest.raises(kind, match=match):
        simulate(bank, others, task_id="sites")


def with_hook(name: str, make: Callable[..., Any]) -> Callable[[list[Any]], None]:
    return lambda sites: setattr(sites[1], name, make)


def yields_all(model: nn.Module, ids: list[str]) -> Iterator[Batch]:
    yield Batch(model(torch.zeros(len(ids), 3, dtype=torch.float64)), ids=ids)


CHANGES: list[Any] = [
    ("another size", "make_feature_model", lambda: nn.Linear(3, 4).double(), e.SitesDifferError,
     "shop.north and shop.south are not the same .*sizes"),
    ("another rate", "make_feature_optimizer", lambda m: torch.optim.SGD(m.parameters(), lr=0.3),
     e.SitesDifferError, "settings of the optimizer"),
    ("norms over rows", "make_feature_model",
     lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double(), e.ConfigError,
     "BatchNorm takes its means"),
    ("no shapes yet", "make_feature_model", lambda: nn.LazyLinear(4).double(), e.ConfigError,
     "has no values yet"),
    ("other batches", "iterate_train_feature", yields_all, e.RowCountError,
     "yield one batch for each of self.batches"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("hook", "make", "kind", "match"), [each[1:] for each in CHANGES])
def test_what_is_not_one_model_is_named(
    hook: str, make: Callable[..., Any], kind: type[Exception], match: str, tmp_path: Path
) -> None:
    wrong(with_hook(hook, make), tmp_path, kind, match)


@pytest.mark.slow
@pytest.mark.parametrize("liar", ["key", "sum"])
def test_a_host_that_changes_keys_or_sums_is_noticed(
    liar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, others = parties(tmp_path, TWO, lab=False)
    honest = SumRelay._add_up

    def lying(relay: Any, role: Any, parts: Any) -> None:
        post, changed = relay._party.post, functools.partial(changing, liar)

        def posting(peer: Any, message: Any, payload: Any = (), **more: Any) -> None:
            if peer.name == "shop.south" and isinstance(message, SiteSum):
                message, payload = changed(message, payload)
            post(peer, message, payload, **more)

        monkeypatch.setattr(relay._party, "post", posting)
        honest(relay, role, parts)
        monkeypatch.setattr(relay._party, "post", post)

    monkeypatch.setattr(SumRelay, "_add_up", lying)
    errors = {
        "key": (e.RemoteProtocolError, "did not seal"),
        "sum": (e.SitesDifferError, "not the same"),
    }
    kind, match = errors[liar]
    with pytest.raises(kind, match=match):
        simulate(bank, others, task_id="sites")


def changing(what: str, message: SiteSum, payload: Any) -> tuple[SiteSum, Any]:
    if what == "key" and message.key is not None:
        return SiteSum(message.round, message.batch, bytes(48)), payload
    (total,) = payload
    half = len(total) // 2  # the first high half, whose lowest bit is 2^-16
    if what == "sum":
        total = total[:half] + bytes([total[half] ^ 1]) + total[half + 1 :]
    return message, [total]


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"sites": {"shop": ["north"]}}, "2 to 16 sites"),
        ({"sites": {"shop": "north"}}, "2 to 16 sites"),
        ({"sites": {}}, "2 to 16 sites"),
        ({"sites": {"shop": ["north", "north"]}}, "2 to 16 sites"),
        ({"sites": {"shop": ["north", "so/uth"]}}, "so/uth"),
        ({"sites": {"inn": ["north", "south"]}}, "collaborators does not list"),
        ({"sites_overlap": "last"}, "'error' or 'first'"),
        ({"sites_share": "losses"}, "'gradient' or 'weights'"),
        ({"sites_every": 0}, "sites_every=0"),
        ({"sites_every": 2}, "share gradients after every batch"),
        ({"batch_size": None}, "sites needs batch_size"),
        ({"max_staleness": 1}, "does not go with max_staleness"),
        ({"early_gradients": True}, "does not go with early_gradients"),
        ({"party_dropout": 0.5}, "does not go with party_dropout"),
        ({"limits": {"min_batch": 2}}, "does not go with the limit min_batch"),
    ],
)
def test_settings_of_the_host_that_do_not_go_with_sites(
    settings: dict[str, Any], match: str, tmp_path: Path
) -> None:
    given = {"collaborators": ["shop"], "sites": {"shop": list(TWO)}, **settings}
    with pytest.raises(e.ConfigError, match=match):
        Bank(tmp_path, **given).launch_task("sites")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"weights_defence": DPSGD(1.0, 1.0, batch_size=8, delta=1e-3)}, "have weights_defence"),
        ({"feature_workers": 2}, "cannot have feature_workers"),
        ({"site": "../north"}, "site"),
    ],
)
def test_settings_of_a_site(settings: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(e.ConfigError, match=match):
        Party(tmp_path, "shop", **{"site": "north", **settings}).launch_task("sites")


@pytest.mark.slow
def test_a_party_that_is_no_site_of_the_plan(tmp_path: Path) -> None:
    bank = Bank(tmp_path, collaborators=["shop.north"])
    with pytest.raises(e.ConfigError, match="is a site of shop here and no site in the plan"):
        simulate(bank, [Party(tmp_path, "shop", site="north")], task_id="sites")


@pytest.mark.slow
def test_baselines_are_refused(tmp_path: Path) -> None:
    bank, others = parties(tmp_path, TWO, lab=False, max_rounds=1)
    with pytest.raises(e.ConfigError, match="baselines does not go with sites: it takes every row"):
        compare(bank, others, task_id="sites")


@pytest.mark.slow
def test_a_dry_run_with_sites(tmp_path: Path) -> None:
    bank, others = parties(tmp_path, TWO, lab=False)
    done: Simulation = simulate(bank, others, task_id="sites", rehearse=True)
    assert done.results["bank"].rehearsal["shapes"] == {"bank": [8, 4], "shop": [8, 4]}


@pytest.mark.slow
def test_the_guide_runs_as_it_stands(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = executed(ROOT / "docs/how-to/sites.md", {})
    assert found["bank"].accuracy > 0.8
    assert found["result"].results["shop.south"].train_rows < 50
    assert list(found["some"].results["bank"]["parties"])[1:3] == [
        "bank+shop.north",
        "bank+shop.south",
    ]


def test_a_task_file_lists_the_sites_of_a_role() -> None:
    sites = [{"role": "shop", "parties": ["shop.north", "shop.south"]}]
    plan = {"batch_size": 16, "announced_split": True, "sites": sites}
    raw = {
        "task": "t",
        "address": "tcp://localhost:7300",
        "host": {"party": "bank"},
        "collaborators": [{"party": "shop.north"}, {"party": "shop.south"}],
        "plan": plan,
    }
    task = check_task(raw, "t.toml")
    again = check_task(msgspec.toml.decode(render(task)), "t.toml")
    assert again.make_plan() == task.make_plan()
    assert task.make_plan().sites == (RoleSites("shop", ("shop.north", "shop.south")),)
    begun = Plan(host="bank", collaborators=("shop.north", "shop.south"))
    assert settle(begun, task).sites == task.make_plan().sites
    other = msgspec.structs.replace(begun, sites=(RoleSites("inn", begun.collaborators),))
    with pytest.raises(e.ConfigError, match="sites is"):
        settle(other, task)
    strange = {**plan, "sites": [{"role": "shop", "parties": ["shop.north", "shop.west"]}]}
    with pytest.raises(e.ConfigError, match="west is none of the collaborators"):
        check_task({**raw, "plan": strange}, "t.toml")
    without = msgspec.structs.replace(task, plan={}).terms()
    assert b"sites" not in without


# -- going on ------------------------------------------------------------------------------------


PLACES = [
    ("shop.north", "make_feature_model", 1),
    ("shop.south", "on_round_end", 1),
    ("bank", "train_a_batch", 14),
    ("bank", "train_a_batch", 3),
]


def made(folder: Path, **settings: Any) -> dict[str, Any]:
    settings = {"lab": False, "shuffle": True, "checkpoint_batches": 3, **settings}
    bank, others = parties(folder, TWO, **settings)
    return {"bank": bank, **{each.feature_key: each for each in others}}


def weights(folder: Path) -> list[Any]:
    found = [state(folder, f"shop.{site}") for site in TWO]
    found += [state(folder, "bank"), state(folder, "bank", "infer_model")]
    return [{name: each.tolist() for name, each in one.items()} for one in found]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFED_HOME", str(folder / "home"))
        run(*made(folder).values(), task="sites")
    return weights(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("victim", "hook", "at"), PLACES)
def test_a_run_with_sites_goes_on(
    victim: str, hook: str, at: int, tmp_path: Path, undisturbed: list[Any]
) -> None:
    first = made(tmp_path)
    crashing(first[victim], hook, at)
    outcomes = dict(zip(first, run(*first.values(), task="sites"), strict=True))
    assert isinstance(outcomes[victim], CrashError)
    run(*made(tmp_path).values(), task="sites")
    assert weights(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_run_with_weights_goes_on(home: Path, tmp_path: Path) -> None:
    """A site stops between two averages: all go back to the last checkpoint, where all are one."""
    share: dict[str, Any] = {"sites_share": "weights", "sites_every": 3}
    run(*made(tmp_path / "whole", **share).values(), task="sites")
    first = made(tmp_path / "torn", **share)
    crashing(first["bank"], "train_a_batch", 14)
    outcomes = run(*first.values(), task="sites")
    assert isinstance(outcomes[0], CrashError)
    run(*made(tmp_path / "torn", **share).values(), task="sites")
    assert weights(tmp_path / "torn") == weights(tmp_path / "whole")
    assert same(tmp_path / "torn", TWO)


@pytest.mark.long
def test_kill_9_of_a_site_and_of_the_host(parties: Parties, tmp_path: Path) -> None:
    """The site while the others wait, then the Host and the other site at once."""
    module, names = "tests.hetero_nn.sites_tiny", ("bank", "lab", "shop.north", "shop.south")

    def start(role: str, folder: str, *what: str) -> Any:
        return parties.start("-m", module, role, str(tmp_path / folder), *what)

    whole = [start(role, "whole") for role in names]
    assert [each.wait() for each in whole] == [0] * 4
    torn = {role: start(role, "torn", "slow", "patient") for role in names}
    for at, victims in ((1, ["shop.south"]), (3, ["bank", "shop.north"])):
        torn["lab"].wait_for(f"ended round {at}")
        for role in victims:
            torn[role].kill()
            torn[role] = start(role, "torn", "slow", "patient")
    assert [each.wait() for each in torn.values()] == [0] * 4
    assert weights(tmp_path / "torn") == weights(tmp_path / "whole")
    assert same(tmp_path / "torn", TWO)
