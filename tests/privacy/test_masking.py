"""Masked sums are exact, and what each party sends is noise."""

from __future__ import annotations

import itertools
import secrets

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heterofed.errors import ConfigError, FeatureError, LocalProtocolError, RemoteProtocolError
from heterofed.privacy.mask_keys import MaskKey, check_keys
from heterofed.privacy.masking import FRACTION_BITS, Masker, masked_sum

RUN = bytes(16)


def maskers(*names: str) -> dict[str, Masker]:
    keys = {name: MaskKey() for name in names}
    return {
        name: Masker(
            name,
            {
                other: keys[name].secret_with(keys[other].public, names=(name, other), run=RUN)
                for other in names
                if other != name
            },
        )
        for name in names
    }


def chi_square(sent: Tensor) -> float:
    """Of the bytes of a tensor against uniform ones; 255 on average, 22.6 its deviation."""
    found = np.bincount(np.frombuffer(sent.numpy().tobytes(), np.uint8), minlength=256)
    expected = found.sum() / 256
    return float(((found - expected) ** 2 / expected).sum())


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 5),
    st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=6),
    st.integers(1, 10),
    st.integers(0, 10),
)
def test_the_sum_is_exact(parties: int, values: list[float], round_: int, batch: int) -> None:
    parts = maskers(*(f"party {n}" for n in range(parties)))
    inputs = [torch.tensor(values, dtype=torch.float64) * (n + 1) for n in range(parties)]
    sent = [
        each.mask(rows, round_number=round_, batch=batch)
        for each, rows in zip(parts.values(), inputs, strict=True)
    ]
    total = masked_sum(sent, torch.float64)
    scale = 2.0**FRACTION_BITS
    exact = sum(((rows * scale).round().long() for rows in inputs), torch.zeros(len(values)).long())
    assert torch.equal(total, exact.double() / scale)
    assert torch.allclose(total, sum(inputs, torch.zeros(1)), atol=parties * 2.0**-33, rtol=1e-12)


@pytest.mark.parametrize("rows", [torch.zeros(200, 64), torch.full((200, 64), -3.5)])
def test_each_message_is_uniform(rows: Tensor) -> None:
    sent = {
        name: each.mask(rows, round_number=1, batch=0)
        for name, each in maskers("a", "b", "c").items()
    }
    for each in sent.values():
        assert 255 - 6 * 22.6 < chi_square(each) < 255 + 6 * 22.6
    plain = (rows * 2.0**FRACTION_BITS).long()
    assert chi_square(plain) > 1e5  # the same test finds what is not masked
    for one, other in itertools.combinations(sent.values(), 2):  # nor do two of three tell
        assert 255 - 6 * 22.6 < chi_square(one + other) < 255 + 6 * 22.6
    assert torch.equal(masked_sum(list(sent.values())), 3 * rows)


def test_masks_of_batches_differ() -> None:
    a, b = maskers("a", "b").values()
    rows = torch.zeros(50, 8)
    first = a.mask(rows, round_number=1, batch=0)
    second = a.mask(rows, round_number=1, batch=1)
    third = a.mask(rows, round_number=2, batch=0)
    assert len({each.numpy().tobytes() for each in (first, second, third)}) == 3
    assert chi_square(torch.stack([first - second, second - third])) < 255 + 6 * 22.6
    b.mask(rows, round_number=1, batch=1)
    with pytest.raises(LocalProtocolError, match="only once"):
        b.mask(rows, round_number=1, batch=1)
    with pytest.raises(LocalProtocolError, match="only once"):
        b.mask(rows, round_number=1, batch=0)


def test_a_batch_that_a_party_dropped_out_of_is_void_and_the_next_goes_on() -> None:
    parts = maskers("a", "b", "c")
    rows = {name: torch.full((4, 2), float(n)) for n, name in enumerate(parts, 1)}
    left = [parts[name].mask(rows[name], round_number=1, batch=0) for name in ("a", "b")]
    assert not torch.equal(masked_sum(left), rows["a"] + rows["b"])  # c's masks are still in it
    for name, other in (("a", "b"), ("b", "a")):
        with pytest.raises(LocalProtocolError):  # a sum without c would tell what c sent
            parts[name].mask(rows[name], round_number=1, batch=0, others=[other])
    going_on = [
        parts[name].mask(rows[name], round_number=1, batch=1, others=[other])
        for name, other in (("a", "b"), ("b", "a"))
    ]
    assert torch.equal(masked_sum(going_on), rows["a"] + rows["b"])
    with pytest.raises(ConfigError, match="shares no masks"):
        parts["a"].mask(rows["a"], round_number=1, batch=2, others=[])


def test_parties_that_see_another_set_do_not_cancel() -> None:
    parts = maskers("a", "b", "c")
    zeros = torch.zeros(3, 3)
    sent = [
        parts["a"].mask(zeros, round_number=1, batch=0),
        parts["b"].mask(zeros, round_number=1, batch=0, others=["a"]),
    ]
    assert masked_sum(sent).abs().max() > 1


# -- keys ----------------------------------------------------------------------------------------


def long_lived() -> tuple[bytes, bytes]:
    key = X25519PrivateKey.generate()
    return key.private_bytes_raw(), key.public_key().public_bytes_raw()


def test_long_lived_keys_keep_a_host_out_that_hands_out_its_own() -> None:
    a, b, host = MaskKey(), MaskKey(), MaskKey()
    (a_secret, a_public), (b_secret, b_public) = long_lived(), long_lived()

    def between(own: MaskKey, theirs: bytes, names: tuple[str, str], identities: object) -> bytes:
        return own.secret_with(theirs, names=names, run=RUN, identities=identities)  # type: ignore[arg-type]

    # Without identities the Host in the middle shares a's secret.
    assert between(a, host.public, ("a", "b"), None) == between(host, a.public, ("b", "a"), None)
    with_b = between(a, host.public, ("a", "b"), (a_secret, b_public))
    for guess in (None, (long_lived()[0], a_public)):
        assert between(host, a.public, ("b", "a"), guess) != with_b
    # The two themselves agree.
    assert between(a, b.public, ("a", "b"), (a_secret, b_public)) == between(
        b, a.public, ("b", "a"), (b_secret, a_public)
    )


def test_secrets_are_of_one_run_and_pair() -> None:
    a, b = MaskKey(), MaskKey()
    found = {
        a.secret_with(b.public, names=names, run=run)
        for names in (("a", "b"), ("a", "c"))
        for run in (RUN, secrets.token_bytes(16))
    }
    assert len(found) == 4


@pytest.mark.parametrize("key", [b"", bytes(32), b"\x01" + bytes(31), bytes(31), bytes(33)])
def test_refuses_keys_that_are_none(key: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="no valid masking key"):
        MaskKey().secret_with(key, names=("a", "b"), run=RUN)
    own = MaskKey()
    with pytest.raises(RemoteProtocolError, match="sent it back"):
        own.secret_with(own.public, names=("a", "b"), run=RUN)


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**30])
def test_refuses_what_does_not_fit(value: float) -> None:
    a, _ = maskers("a", "b").values()
    with pytest.raises(FeatureError, match="no room"):
        a.mask(torch.tensor([value]), round_number=1, batch=0)


def test_refuses_one_party_and_odd_parts() -> None:
    with pytest.raises(ConfigError, match="two Collaborators"):
        Masker("a", {})
    for parts in ([torch.zeros(2).long(), torch.zeros(3).long()], [torch.zeros(2)] * 2):
        with pytest.raises(RemoteProtocolError, match="int64"):
            masked_sum(parts)


def test_empty_batch() -> None:
    sent = [
        each.mask(torch.zeros(0, 4), round_number=1, batch=0) for each in maskers("a", "b").values()
    ]
    assert masked_sum(sent).shape == (0, 4)


def test_keys_are_looked_at_before_they_are_relayed() -> None:
    good = {"bob": MaskKey().public, "carol": MaskKey().public}
    check_keys({})
    check_keys(good)
    small = (
        (0).to_bytes(32, "little"),
        (1).to_bytes(32, "little"),
        (2**255 - 20).to_bytes(32, "little"),
    )
    for bad, words in (
        *((key, "no valid masking key") for key in (*small, b"short")),
        (good["carol"], "the masking key of carol"),
    ):
        with pytest.raises(RemoteProtocolError, match=f"dave sent {words}") as caught:
            check_keys({**good, "dave": bad})
        assert caught.value.party == "dave"
