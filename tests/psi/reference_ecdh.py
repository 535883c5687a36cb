"""A second, slow ECDH protocol to compare with: RFC 9496 in plain integers, no libsodium.

Written from the RFC and from the docstrings of `psi.ecdh.oprf`. Not constant time, not for use.
"""

from __future__ import annotations

import hashlib

from tests.psi.reference import length_prefixed

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]


def negative(x: int) -> bool:
    return x % P % 2 == 1


def size(x: int) -> int:
    return (-x if negative(x) else x) % P


def sqrt_ratio(u: int, v: int) -> tuple[bool, int]:
    r = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    check = v * r * r % P
    if check in (-u % P, -u * ROOT % P):
        r = r * ROOT % P
    return check in (u % P, -u % P), size(r)


A_MINUS_D = sqrt_ratio(1, (-1 - D) % P)[1]
D_LESS_ONE = sqrt_ratio((-1 * D - 1) % P, 1)[1]
# The RFC's constant is this root or its negative; it gives the low 1576...
if D_LESS_ONE != 25063068953384623474111414158702152701244531502492656460079210482610430750235:
    D_LESS_ONE = -D_LESS_ONE % P


def decode(data: bytes) -> Point | None:
    s = int.from_bytes(data, "little")
    if s >= P or negative(s):
        return None
    u1, u2 = (1 - s * s) % P, (1 + s * s) % P
    v = (-D * u1 * u1 - u2 * u2) % P
    square, inverse = sqrt_ratio(1, v * u2 * u2 % P)
    x = size(2 * s * inverse * u2)
    y = u1 * inverse * inverse * u2 * v % P
    t = x * y % P
    return None if not square or negative(t) or y == 0 else (x, y, 1, t)


def encode(point: Point) -> bytes:
    x, y, z, t = point
    u1, u2 = (z + y) * (z - y) % P, x * y % P
    _, inverse = sqrt_ratio(1, u1 * u2 * u2 % P)
    d1, d2 = inverse * u1 % P, inverse * u2 % P
    z_inverse = d1 * d2 * t % P
    if negative(t * z_inverse):
        x, y, last = y * ROOT % P, x * ROOT % P, d1 * A_MINUS_D % P
    else:
        last = d2
    if negative(x * z_inverse):
        y = -y % P
    return size(last * (z - y)).to_bytes(32, "little")


def add(a: Point, b: Point) -> Point:
    (x1, y1, z1, t1), (x2, y2, z2, t2) = a, b
    n, m = (y1 - x1) * (y2 - x2), (y1 + x1) * (y2 + x2)
    c, d = 2 * D * t1 * t2, 2 * z1 * z2
    e, f, g, h = m - n, d - c, d + c, m + n
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(k: int, point: Point) -> Point:
    total: Point = (0, 1, 1, 0)
    while k:
        if k & 1:
            total = add(total, point)
        point, k = add(point, point), k >> 1
    return total


def one_way(half: bytes) -> Point:
    t = int.from_bytes(half, "little") % 2**255 % P
    r = ROOT * t * t % P
    u = (r + 1) * (1 - D * D) % P
    v = (-1 - r * D) * (r + D) % P
    square, s = sqrt_ratio(u, v)
    if not square:
        s = -size(s * t) % P
    c = -1 if square else r
    n = (c * (r - 1) * (D - 1) ** 2 - v) % P
    w0, w1 = 2 * s * v % P, n * D_LESS_ONE % P
    w2, w3 = (1 - s * s) % P, (1 + s * s) % P
    return w0 * w3 % P, w2 * w1 % P, w1 * w3 % P, w0 * w2 % P


def from_hash(data: bytes) -> Point:
    return add(one_way(data[:32]), one_way(data[32:]))


GENERATOR = decode(
    bytes.fromhex("e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76")
)


def wide(stream: bytes, number: int) -> int:
    return 1 + int.from_bytes(stream[64 * number : 64 * number + 64], "little") % (ORDER - 1)


def hash_id(domain: bytes, key: bytes, text: str) -> Point:
    label = length_prefixed([b"psi-ecdh-1", b"id", domain, key])
    return from_hash(hashlib.shake_256(label + text.encode()).digest(64))


def blob(domain: bytes, key: bytes) -> bytes:
    check = hashlib.sha256(length_prefixed([b"psi-ecdh-1", b"key", domain, key])).digest()
    return b"PSE1" + key + check[:16]


def short_hash(label: bytes, key: bytes, masked: bytes, text: str) -> bytes:
    return hashlib.sha256(label + key + masked + text.encode()).digest()[:16]


def play(
    b: int, domain: bytes, asking: list[str], signing: list[str], stream: bytes
) -> dict[str, bytes | list[str]]:
    """All that travels in a run whose ids are sent in their order."""
    assert GENERATOR is not None
    key = encode(times(b, GENERATOR))
    blinded = [times(wide(stream, i), hash_id(domain, key, text)) for i, text in enumerate(asking)]
    own = {text: encode(times(b, hash_id(domain, key, text))) for text in {*asking, *signing}}
    both = [text for text in asking if text in signing]
    return {
        "key": blob(domain, key),
        "blinded": b"".join(map(encode, blinded)),
        "signed": b"".join(encode(times(b, point)) for point in blinded),
        "tags": b"".join(sorted(short_hash(b"tag", key, own[text], text) for text in signing)),
        "proofs": b"".join(sorted(short_hash(b"match", key, own[text], text) for text in both)),
        "intersection": both,
    }
