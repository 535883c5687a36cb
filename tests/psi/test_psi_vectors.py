"""The bytes on the wire equal those of an independent implementation."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from psi import RSARequester, domain
from tests.psi import make_vectors
from tests.psi.helpers import WIDTH, signer

VECTORS: dict[str, Any] = json.loads(make_vectors.PATH.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_file_is_what_its_generator_writes() -> None:
    assert make_vectors.build() == VECTORS


class Stream:
    """Random bytes known in advance."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __call__(self, count: int) -> bytes:
        out, self.data = self.data[:count], self.data[count:]
        assert len(out) == count
        return out


@pytest.mark.parametrize("backend", ["openssl", "gmpy2"])
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: str(case["random"]))
def test_same_bytes(case: dict[str, Any], backend: str) -> None:
    run = domain(case["task"], case["run"])
    assert run.hex() == case["domain"]
    stream = hashlib.shake_256(b"r%d" % case["random"]).digest(60 * WIDTH)
    with signer(case["signing"], domain=run, _backend=backend) as signing:
        assert signing.backend == backend
        assert signing.public_key().hex() == case["key"]
        asking = RSARequester(
            case["asking"],
            bytes.fromhex(case["key"]),
            len(case["signing"]),
            domain=run,
            workers=1,
            _random=Stream(b"\xff" * WIDTH + stream),
        )
        blinded = b"".join(asking.blinded())
        assert blinded.hex() == case["blinded"]
        signing.begin(asking.count)
        if blinded:
            signed = signing.sign(blinded)
            assert signed.hex() == case["signed"]
            asking.unblind(signed)
        tags = b"".join(signing.tags())
        assert tags.hex() == case["tags"]
        asking.add_tags(tags, last=True)
        assert asking.intersection() == case["intersection"]
        proofs = b"".join(asking.proofs(case["intersection"]))
        assert proofs.hex() == case["proofs"]
        assert set(signing.matched(proofs, last=True) or ()) == set(case["intersection"])
