"""What a site of a role may say, and when: its part of each sum, once and of one size."""

from __future__ import annotations

import msgspec
import pytest

from heterofed.protocol.leak_limits import LeakLimits
from heterofed.protocol.messages import Features, SiteSum
from heterofed.protocol.plan import RoleSites, wrong_with_sites
from heterofed.protocol.states import State
from tests.protocol.link import (
    ACCEPTED,
    PLAN,
    PREPARED,
    SITE_PREPARED,
    SITE_ROUND,
    SITE_RUN,
    SITES,
    C,
    H,
    Line,
    Link,
    begin_test,
    begin_train,
    done,
    end,
    features,
    hello,
    no_rows,
    share,
    site_rows,
    site_sum,
    welcome,
    welcome_back,
)


def test_a_site_goes_through_a_whole_task() -> None:
    assert Link(*SITE_RUN).state is State.CLOSED


def test_first_weights_are_summed_once_before_the_split_is_accepted() -> None:
    link = Link(*SITE_PREPARED[:-3])
    assert "before the first weights" in link.refuses(ACCEPTED)
    assert "not the first weights" in link.refuses(share(1, number=0, keys=1))
    assert "other keys than are due" in link.refuses(share(0, number=0))
    assert "before its part" in link.refuses(site_sum(0, number=0))
    link.say(share(0, number=0, size=48, keys=1))
    assert "a second time" in link.refuses(share(0, number=0, size=48))
    assert "not as many numbers" in link.refuses(site_sum(0, number=0, size=64))
    assert "not due" in link.refuses(site_sum(0, number=0, size=48, key=bytes(48)))
    link.say(site_sum(0, number=0, size=48))
    assert "before its part" in link.refuses(site_sum(0, number=0, size=48))
    link.say(ACCEPTED)


@pytest.mark.parametrize("size", [0, 8, 80])
def test_a_part_is_of_whole_numbers_and_within_the_limit(size: int) -> None:
    link = Link(*SITE_PREPARED, *SITE_ROUND[:4])
    assert "not the numbers of one model" in link.refuses(share(0, size=size))


def test_gradients_are_summed_in_order_and_once() -> None:
    link = Link(*SITE_PREPARED, *SITE_ROUND[:3])
    assert "not the batch that is next" in link.refuses(share(0))  # the Host has not answered
    link.say(SITE_ROUND[3])
    assert "not this round" in link.refuses(share(0, number=2))
    assert "not the batch that is next" in link.refuses(share(1))
    assert "other keys" in link.refuses(share(0, keys=1))
    assert "before the parts of the sites" in link.refuses(no_rows(1))
    assert "before the parts of the sites" in link.refuses(end(1))
    link.say(share(0))
    assert "not the batch that is next" in link.refuses(share(0))
    assert "not as many numbers" in link.refuses(site_sum(0, size=48))
    link.say(site_sum(0))
    assert "not the batch that is next" in link.refuses(site_sum(0))
    link.say(no_rows(1), done(1))
    assert "not the numbers of one model" in link.refuses(share(1, size=48))


def test_rows_are_told_once_before_a_round_and_a_test() -> None:
    link = Link(*SITE_PREPARED)
    assert "before the rows" in link.refuses(begin_train(1, 0))
    assert "not this round" in link.refuses(site_rows(2, number=2))
    assert "not a number for each" in link.refuses(Line(H, site_rows(2).message, 4))
    link.say(site_rows(2))
    assert "a second time" in link.refuses(site_rows(2))
    link.say(*SITE_ROUND[1:])
    assert "before the rows" in link.refuses(begin_test(1))
    link.say(site_rows(1, testing=True), begin_test(1))


def test_only_a_site_sends_no_rows_and_parts() -> None:
    link = Link(*PREPARED)
    assert "not a site" in link.refuses(site_rows(1))
    link.say(begin_train(1))
    assert "no tensor" in link.refuses(no_rows(0))
    link.say(features(0), done(0))
    assert "not a site" in link.refuses(share(0))
    site = Link(*SITE_PREPARED, *SITE_ROUND[:2])
    assert "rows without a tensor" in site.refuses(Line(C, Features(1, 0, 2, "tensor", ())))


def test_a_frozen_site_sums_no_gradients() -> None:
    link = Link(hello(trainable=False), *SITE_PREPARED[1:], *SITE_ROUND[:3], done(0))
    assert "that party is frozen" in link.refuses(share(0))
    link.say(no_rows(1), done(1), end(2))


def test_keys_come_again_after_the_parties_connected_again() -> None:
    link = Link(hello(2, 3), welcome_back(3, SITES), site_rows(2, number=4), begin_train(4, 0))
    link.say(no_rows(0, number=4), done(0, number=4))
    assert "other keys than are due" in link.refuses(share(0, number=4))
    link.say(share(0, number=4, keys=1), site_sum(0, number=4))


def test_other_sites_get_a_key_with_the_first_sum() -> None:
    plan = msgspec.structs.replace(SITES, sites=(RoleSites("trade", ("inn", "shop")),))
    link = Link(hello(2, 3), welcome_back(3, plan), site_rows(2, number=4), begin_train(4, 0))
    link.say(no_rows(0, number=4), done(0, number=4))
    assert "other keys than are due" in link.refuses(share(0, number=4, keys=1))
    link.say(share(0, number=4))
    assert "no key" in link.refuses(site_sum(0, number=4))
    link.say(Line(H, SiteSum(4, 0, bytes(48)), 32))


def test_weights_are_averaged_after_some_batches_and_the_last() -> None:
    plan = msgspec.structs.replace(SITES, sites_share="weights", sites_every=2)
    link = Link(hello(2, 3), welcome_back(3, plan), site_rows(3, number=4), begin_train(4, 0))
    link.say(no_rows(0, number=4), done(0, number=4))
    assert "not the batch that is next" in link.refuses(share(0, number=4, keys=1))
    link.say(no_rows(1, number=4), done(1, number=4))
    assert "before the parts of the sites" in link.refuses(no_rows(2, number=4))
    link.say(share(1, number=4, keys=1), site_sum(1, number=4))
    link.say(no_rows(2, number=4), done(2, number=4))
    assert "before the parts of the sites" in link.refuses(end(3, number=4))
    link.say(share(2, number=4), site_sum(2, number=4), end(3, number=4))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sites": (RoleSites("trade", ("shop", "pub")),)}, "pub is none of the collaborators"),
        ({"sites": (RoleSites("shop", ("shop", "inn")),)}, "a name of its own"),
        ({"sites": (RoleSites("trade", ("shop", "shop")),)}, "a name of its own"),
        ({"sites": (RoleSites("bank", ("shop", "inn")),)}, "a name of its own"),
        ({"collaborators": ("shop", "inn", "trade")}, "cannot be a collaborator"),
        ({"sites_every": 2}, "they share gradients after every batch"),
        (
            {"sites_share": "weights", "sites_every": 2, "checkpoint_batches": 3},
            "checkpoint_batches has to be a multiple",
        ),
        ({"batch_size": 0}, "they need batch_size"),
        ({"announced_split": False}, "they need batch_size and announced_split"),
        ({"fusion": "masked_sum"}, "do not go with fusion"),
        ({"max_staleness": "auto"}, "do not go with max_staleness"),
        ({"id_keys": 2}, "do not go with id_keys"),
        ({"limits": LeakLimits(min_batch=2)}, "do not go with min_batch"),
    ],
)
def test_a_plan_with_impossible_sites_is_refused(change: dict[str, object], why: str) -> None:
    plan = msgspec.structs.replace(SITES, **change)
    assert why in wrong_with_sites(plan)
    refusal = Link(hello()).refuses(welcome(plan))
    assert why in refusal
    assert not wrong_with_sites(SITES)
    assert not wrong_with_sites(PLAN)
