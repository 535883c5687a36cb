"""A subclass may call its own methods and attributes whatever it likes: nothing of ours changes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from heterofed import ConfigError, DataChecker, TaskResult, simulate
from heterofed.hetero_nn import psi as psi_tasks
from heterofed.runs.reserved import RESERVED
from heterofed.runs.settings import Shown
from tests.e2e.tiny import TinyCollaborator, TinyHost, run
from tests.runs.test_resume import weights

pytestmark = pytest.mark.usefixtures("home")

ONCE_OURS = """
    _MODELS _accumulates _agree_on_ids _attempt _backward _batch_size _begin _best_files
    _calculation_timeout _call_hook _carried _check_hooks _check_privacy
    _checkpoint_batches _close_round _collaborators _common _compare_columns
    _compare_features _compress_features _compress_gradients _count_rounds _cut_metrics
    _early_gradients _embedding_defence _end_badly _end_round _features _finish _freshness
    _fusion _gradient_defence _guard _ids _in_hook _is_feature_trainable _is_finished
    _is_over _is_test_due _joint_batches _keep _keep_batch _keep_checkpoint _keep_split
    _kept_rows _known _label_dp _launch _launch_shown _leak_report _leg _limits _load_ids
    _log_rounds _loss_reduction _made _make_feature_model _make_feature_optimizer
    _make_infer_model _make_infer_optimizer _make_plan _makers _max_peer_ids _max_rounds
    _max_staleness _meet _name_best _note_return _open_folder _open_kept _open_metrics
    _open_registered_metrics _own_batches _own_ids _parts _party_dropout _perform
    _predicts _prepare _private_model _private_optimizer _proof _psi_bits _psi_protocol
    _put_back _reader _record_training _rehearse _results_folder _roots _round_ids
    _row_order _run _save_models _scalars _seeded _seeded_hook _set_modes _settings
    _settle _shuffle _split _staleness_at_start _staleness_from _stateful _step _take_up
    _test _timeouts _too_often _train_a_leg _train_a_round _update _uses_default_end
    _verify _wait_for_folder _wait_for_peers _waits_for _weights _weights_defence
    _write_common
"""
"""Names that the base classes had within before they took a prefix."""

WORDS = """
    add agree agreement all append apply args backward base batch batches begin best
    budget build cache calc calculate call callback callbacks check checkpoint choose
    clear client close collect compute config context copy counter counts criterion
    current data dataset debug decode default device do done dropout early emit encode end
    engine epoch epochs error eval evaluate event events execute export extra extract
    feature features feed fetch fields finish finished fit flush folder forward freeze
    fuse gather generate get grad gradient gradients guard guards handle helper hidden
    hooks host id ids index info infer init initialize input inputs item items iterate
    join keep key keys kind labels layer layers leg lengths limit limits load loader lock
    log logger logits loop loss losses lr main make map mark mask meet member merge
    message messages metric metrics mode model models move net network noise norm note
    notify num open optim options order out output own params part parts party path peer
    peers perform phase pick plan post pre precision predict predictions prepare prepared
    preprocess private process progress project proof pull push put queue random rank read
    receive record recorded records rehearse reload report reset restore result results
    resume role round rounds rows run rng sample samples save scale scaler schedule
    scheduler score secret seed select send session set settings setup shape shared show
    shuffle size snapshot sort split splits staleness start state states status step steps
    stop store stream strategy sum summary sync table tables take target task teacher
    tensors test tests time timeout timeouts timer tokens tool top total train trained
    trainer training transform tune unpack update user util validate value values verify
    version view wait warm warmup watch weight weights with work worker wrap write x y z
    zero
"""


def taken(base: type) -> set[str]:
    """What the contract gives a meaning at any party, and what the class itself uses."""
    bases = (base, TinyHost, TinyCollaborator)
    return {name for each in bases for name in dir(each) if name != RESERVED}


def names_for(base: type) -> list[str]:
    words, ours = WORDS.split(), ONCE_OURS.split()
    words += [each.lstrip("_") for each in ours]
    every = {*words, *ours, *(f"_{each}" for each in words), *(f"__{each}" for each in words)}
    return sorted(every - taken(base))


def raises(*_: Any, **__: Any) -> Any:
    raise AssertionError("a method of the user's was called")


def with_methods(base: type) -> type:
    return type("User", (base,), dict.fromkeys(names_for(base), raises) | {"__module__": "user"})


def with_class_attributes(base: type) -> type:
    return type("User", (base,), dict.fromkeys(names_for(base), "mine") | {"__module__": "user"})


def with_attributes(base: type) -> type:
    def set_all(self: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, *args, **kwargs)  # type: ignore[misc]
        for number, name in enumerate(names_for(base)):
            setattr(self, name, number)

    return type("User", (base,), {"__init__": set_all, "__module__": "user"})


def before_ours(base: type) -> type:
    def set_all(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in names_for(base):
            setattr(self, name, None)
        base.__init__(self, *args, **kwargs)  # type: ignore[misc]

    return type("User", (base,), {"__init__": set_all, "__module__": "user"})


def trained(folder: Path, change: Callable[[type], type]) -> list[TaskResult]:
    host = change(TinyHost)(folder, log_rounds=1)
    bob = change(TinyCollaborator)(folder)
    return list(simulate(host, [bob], task_id="tiny").results.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [with_methods, with_class_attributes, with_attributes, before_ours]
)
def test_any_name_is_the_users(change: Callable[[type], type], tmp_path: Path) -> None:
    expected = weights(*trained(tmp_path / "plain", lambda base: base))
    now = weights(*trained(tmp_path / "user", change))
    assert now.keys() == expected.keys()
    assert all(torch.equal(now[name], expected[name]) for name in expected)


def test_tasks_that_only_intersect(tmp_path: Path) -> None:
    def ids(_self: object) -> list[str]:
        return ["a", "b", "c"]

    results = {}
    kinds: list[Any] = [
        psi_tasks.RSAPSIInitiatorScheduler,
        psi_tasks.RSAPSICollaboratorScheduler,
    ]
    for kind in kinds:
        user = with_methods(with_attributes(type("Ids", (kind,), {"load_local_ids": ids})))
        results[kind] = user
    first = results[kinds[0]]("alice", results_dir=tmp_path)
    second = results[kinds[1]]("bob", results_dir=tmp_path)
    outcomes = run(first, second)
    assert not [each for each in outcomes if isinstance(each, BaseException)], outcomes


def test_data_checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class Checker(DataChecker):
        def verify_data(self) -> bool:
            self.task_id = "../other"
            return True

    user = with_methods(with_attributes(Checker))
    assert user("tiny").execute_verification()


@pytest.mark.parametrize("base", [TinyHost, TinyCollaborator, DataChecker])
def test_a_class_that_takes_a_name_of_ours_is_refused(base: type) -> None:
    with pytest.raises(ConfigError, match="User defines _heterofed, which"):
        type("User", (base,), {"_heterofed": 1, "__module__": "user"})
    type("User", (base,), {"_heterofed_mine": 1, "__module__": "user"})


@pytest.mark.slow
def test_what_bases_hold_has_the_prefix(tmp_path: Path) -> None:
    """All that a subclass inherits, and all that a scheduler holds once it was launched."""
    kinds: list[type] = [TinyHost, TinyCollaborator, DataChecker]
    kinds += [psi_tasks.RSAPSIInitiatorScheduler, psi_tasks.RSAPSICollaboratorScheduler]
    for base in kinds:
        private = {name for name in dir(base) if name[0] == "_" and name[:2] != "__"}
        private -= {"_abc_impl", "_is_reach_max_rounds"}
        assert private <= {RESERVED}, (base, private)
    host, bob = TinyHost(tmp_path), TinyCollaborator(tmp_path)
    simulate(host, [bob], task_id="tiny")
    for each in (host, bob):
        assert vars(each).keys() <= {RESERVED}, vars(each)


def test_public_names_are_not_read_within() -> None:
    """A subclass may shadow them; so no method of ours reads `self.batch_size` and the like."""
    shown = {
        name
        for base in (TinyHost, TinyCollaborator)
        for cls in base.__mro__
        for name, each in vars(cls).items()
        if isinstance(each, Shown)
    }
    ours = {
        cls
        for base in (TinyHost, TinyCollaborator)
        for cls in base.__mro__
        if "heterofed" in cls.__module__
    }
    for cls in ours:
        read = [
            f"{cls.__module__}: self.{node.attr}"
            for node in ast.walk(ast.parse(inspect.getsource(cls)))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
            and node.attr in shown
        ]
        assert not read
