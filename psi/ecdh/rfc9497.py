"""Computes the suite ristretto255-SHA512 of RFC 9497, in the modes OPRF and VOPRF.

The names are those of the RFC. A client blinds its inputs, a server evaluates the blinded elements
with its secret key, and the client finalizes the evaluated elements. In the mode VOPRF the server
also proves that it used the key that belongs to its public key, by one proof for a whole batch
(section 2.2 of the RFC: equal discrete logarithms, after Chaum and Pedersen).

Elements and scalars have 32 bytes, and many of them are joined into one string. Each function takes
and returns picklable values, so that an executor can run it on another machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha512

from gmpy2 import mpz

from psi.arithmetic import inverses
from psi.ecdh.group import ORDER, POINT_BYTES, PointRefusedError, find_group, scalar
from psi.errors import FaultError, SignatureError, ValueRefusedError

OPRF, VOPRF = 0, 1
"""The modes. The outputs of the two modes differ."""

OUTPUT_BYTES = 64
PROOF_BYTES = 2 * POINT_BYTES
MAX_INPUT = 2**16 - 1
"""The most bytes of an input."""
MAX_BATCH = 2**16 - 1
"""The most elements that one proof covers."""

_CONTEXT = [b"OPRFV1-" + bytes([mode]) + b"-ristretto255-SHA512" for mode in (OPRF, VOPRF)]
_PADDING = sha512(bytes(128))  # every hash of expand_message_xmd begins with a block of zeros
_LENGTH = b"\x00\x40\x00"  # of its 64 bytes of output, and the number of the first block


def blind(inputs: Sequence[bytes], blinds: bytes, mode: int = VOPRF) -> bytes:
    """Return the blinded element of each input.

    Args:
        inputs: at most `MAX_INPUT` bytes each.
        blinds: a uniform scalar in [1, order) for each input, used for it alone.
        mode: `OPRF` or `VOPRF`.
    """
    return find_group().multiply(blinds, _hash_to_group(inputs, mode))


def evaluate(key: bytes, blinded: bytes) -> bytes:
    """Return the evaluated element of each blinded element of a client.

    Raises:
        ValueRefusedError: an element is not canonical, or is the identity.
    """
    try:
        return find_group().multiply(key, blinded)
    except PointRefusedError:
        raise ValueRefusedError("a value is no element of the group, or is the identity") from None


def finalize(inputs: Sequence[bytes], blinds: bytes, evaluated: bytes) -> list[bytes]:
    """Return the output of each input, 64 bytes.

    Args:
        inputs: the inputs.
        blinds: the scalars that blinded them.
        evaluated: the answer of the server. In the mode VOPRF, `verify` has checked it.

    Raises:
        SignatureError: an element is not canonical, or is the identity.
    """
    unblinding = inverses([mpz.from_bytes(each, "little") for each in _cut(blinds)], ORDER)
    try:
        elements = find_group().multiply(b"".join(map(scalar, unblinding)), evaluated)
    except PointRefusedError:
        raise SignatureError(
            "a signed value is no element of the group, or is the identity"
        ) from None
    return _outputs(inputs, elements)


def output_of(key: bytes, inputs: Sequence[bytes], mode: int = VOPRF) -> list[bytes]:
    """Return the output of each of the server's own inputs. The RFC calls this Evaluate."""
    try:
        elements = find_group().multiply(key, _hash_to_group(inputs, mode))
    except PointRefusedError:  # no hash maps to the identity, but a broken library might return it
        raise FaultError("a value of an own id came out wrong") from None
    return _outputs(inputs, elements)


def prove(key: bytes, blinded: bytes, evaluated: bytes, nonce: bytes) -> bytes:
    """Return the proof of 64 bytes that `evaluated` is `key` times each of `blinded`.

    Args:
        key: the secret key.
        blinded: the elements of the client, at most `MAX_BATCH`.
        evaluated: the answers.
        nonce: a uniform scalar in [1, order), used for this proof alone.
    """
    group = find_group()
    public = group.base(key)
    (masked,) = _composites(public, blinded, evaluated, (blinded,))
    signed = group.multiply(key, masked)
    challenge = _challenge(public, masked, signed, group.base(nonce), group.multiply(nonce, masked))
    response = (_number(nonce) - challenge * _number(key)) % ORDER
    return scalar(challenge) + scalar(response)


def verify(public: bytes, blinded: bytes, evaluated: bytes, proof: bytes) -> None:
    """Check the proof of a batch.

    Raises:
        SignatureError: the proof does not hold, or a value is no element of the group.
    """
    try:
        if not _holds(public, blinded, evaluated, proof):
            raise SignatureError("the proof of the evaluated values does not hold")
    except PointRefusedError:
        raise SignatureError(
            "a signed value is no element of the group, or is the identity"
        ) from None


def _holds(public: bytes, blinded: bytes, evaluated: bytes, proof: bytes) -> bool:
    if len(proof) != PROOF_BYTES or len(blinded) != len(evaluated):
        return False
    challenge, response = proof[:POINT_BYTES], proof[POINT_BYTES:]
    if not all(0 < _number(each) < ORDER for each in (challenge, response)):
        return False
    group = find_group()
    masked, signed = _composites(public, blinded, evaluated, (blinded, evaluated))
    parts = group.base(response) + group.multiply(challenge, public)
    others = group.multiply(response, masked) + group.multiply(challenge, signed)
    expected = _challenge(public, masked, signed, group.sum(parts), group.sum(others))
    return scalar(expected) == challenge


def _composites(
    public: bytes, blinded: bytes, evaluated: bytes, of: Sequence[bytes]
) -> list[bytes]:
    """Return the sum of each list in `of`, where every element has a weight that is hashed from
    the batch.
    """
    label = b"Seed-" + _CONTEXT[VOPRF]
    seed = _prefixed(sha512(_prefixed(public, label)).digest())
    weights = [
        scalar(_hash_to_scalar(seed + number.to_bytes(2, "big") + _prefixed(*pair) + b"Composite"))
        for number, pair in enumerate(zip(_cut(blinded), _cut(evaluated), strict=True))
    ]
    group, joined = find_group(), b"".join(weights)
    return [group.sum(group.multiply(joined, elements)) for elements in of]


def _challenge(public: bytes, *elements: bytes) -> int:
    return _hash_to_scalar(_prefixed(public, *elements) + b"Challenge")


def _hash_to_group(inputs: Sequence[bytes], mode: int) -> bytes:
    expanded = _expand(inputs, b"HashToGroup-" + _CONTEXT[mode])
    return find_group().from_hashes(b"".join(expanded))


def _hash_to_scalar(message: bytes) -> int:
    (expanded,) = _expand([message], b"HashToScalar-" + _CONTEXT[VOPRF])
    return int.from_bytes(expanded, "little") % ORDER


def _expand(messages: Iterable[bytes], label: bytes) -> Iterator[bytes]:
    """Yield 64 bytes for each message, by expand_message_xmd of RFC 9380 with SHA-512."""
    label += bytes([len(label)])
    first, last = _LENGTH + label, b"\x01" + label
    for message in messages:
        state = _PADDING.copy()
        state.update(message + first)
        yield sha512(state.digest() + last).digest()


def _outputs(inputs: Sequence[bytes], elements: bytes) -> list[bytes]:
    pairs = zip(inputs, _cut(elements), strict=True)
    return [sha512(_prefixed(*pair) + b"Finalize").digest() for pair in pairs]


def _prefixed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def _number(encoded: bytes) -> int:
    return int.from_bytes(encoded, "little")


def _cut(elements: bytes) -> list[bytes]:
    return [elements[at : at + POINT_BYTES] for at in range(0, len(elements), POINT_BYTES)]
