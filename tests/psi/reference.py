"""A second, slow implementation of the protocol, to compare with: plain integers and hashlib.

Written from the description in the docstrings of `psi`, sharing no code with it. Not constant
time, not checked, not for use.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

E = 65537


def length_prefixed(parts: list[bytes]) -> bytes:
    out = bytearray()
    for part in parts:
        out += int.to_bytes(len(part), 8, "big")
        out += part
    return bytes(out)


def domain(task: str, run: str) -> bytes:
    return length_prefixed([b"psi-rsa-1", task.encode("utf-8"), run.encode("utf-8")])


def number(data: bytes) -> int:
    total = 0
    for byte in data:
        total = total * 256 + byte
    return total


@dataclass
class Key:
    p: int
    q: int

    @property
    def n(self) -> int:
        return self.p * self.q

    @property
    def d(self) -> int:
        return pow(E, -1, (self.p - 1) * (self.q - 1))

    @property
    def width(self) -> int:
        return -(-self.n.bit_length() // 8)

    def wire(self, value: int) -> bytes:
        return value.to_bytes(self.width, "big")


def onto_modulus(key: Key, label: bytes, run: bytes, message: bytes) -> int:
    text = length_prefixed([b"psi-rsa-1", label, run, key.wire(key.n)]) + message
    longer = -(-(key.n.bit_length() + 128) // 8)
    return number(hashlib.shake_256(text).digest(longer)) % key.n


def hash_id(key: Key, run: bytes, text: str) -> int:
    return onto_modulus(key, b"id", run, text.encode("utf-8"))


def key_blob(key: Key, run: bytes) -> bytes:
    roots = []
    for i in range(9):
        challenge = onto_modulus(key, b"key-proof", run, i.to_bytes(4, "big"))
        roots.append(pow(challenge, key.d, key.n))
    sizes = key.n.bit_length().to_bytes(2, "big") + E.to_bytes(4, "big")
    return b"PSI1" + sizes + key.wire(key.n) + b"".join(key.wire(root) for root in roots)


def short_hash(key: Key, label: bytes, signature: int) -> bytes:
    return hashlib.sha256(label + key.wire(key.n) + key.wire(signature)).digest()[:16]


def blindings(key: Key, stream: bytes, count: int) -> list[int]:
    """The first `count` usable numbers in a stream of random bytes."""
    found: list[int] = []
    while len(found) < count:
        draw, stream = number(stream[: key.width]), stream[key.width :]
        draw %= 2 ** key.n.bit_length()
        if 0 != draw < key.n:
            found.append(draw)
    return found


@dataclass
class Transcript:
    key: bytes
    blinded: bytes
    signed: bytes
    tags: bytes
    proofs: bytes
    intersection: list[str]


def play(key: Key, run: bytes, asking: list[str], signing: list[str], stream: bytes) -> Transcript:
    blinded, signed, held = b"", b"", {}
    for text, r in zip(asking, blindings(key, stream, len(asking)), strict=True):
        sent = hash_id(key, run, text) * pow(r, E, key.n) % key.n
        answer = pow(sent, key.d, key.n)
        held[text] = answer * pow(r, -1, key.n) % key.n
        blinded += key.wire(sent)
        signed += key.wire(answer)
    own = {text: pow(hash_id(key, run, text), key.d, key.n) for text in signing}
    both = [text for text in asking if text in own]
    return Transcript(
        key=key_blob(key, run),
        blinded=blinded,
        signed=signed,
        tags=b"".join(sorted(short_hash(key, b"tag", s) for s in own.values())),
        proofs=b"".join(sorted(short_hash(key, b"match", held[text]) for text in both)),
        intersection=both,
    )
