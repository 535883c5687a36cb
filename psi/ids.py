"""Which ids can be intersected. Knows strings, nothing of hashing or of a peer.

Ids are exact code points: nothing is normalised, stripped or folded, because two parties that
fold differently would silently lose matches. Messages of errors hold positions, never ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from psi.errors import IdsError

_SHOWN = 10  # positions named in a message


def check_ids(ids: Sequence[str]) -> list[str]:
    """A copy of `ids`, or `IdsError`: all strings, none repeated, each encodable as UTF-8."""
    if isinstance(ids, str):
        raise IdsError("ids is one string; give a list of strings")
    own: list[str] = list(ids)
    _refuse("not a string", [i for i, value in enumerate(own) if not isinstance(value, str)])
    _refuse("not encodable as UTF-8", [i for i, text in enumerate(own) if not _encodable(text)])
    if len(set(own)) != len(own):
        seen: set[str] = set()
        repeated = []
        for position, text in enumerate(own):
            if text in seen:
                repeated.append(position)
            seen.add(text)
        _refuse("repeated", repeated)
    return own


def _encodable(text: str) -> bool:
    # The UnicodeEncodeError holds the id, so it must not become part of what we raise.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(what: str, positions: list[int]) -> None:
    if positions:
        shown = ", ".join(map(str, positions[:_SHOWN]))
        more = ", ..." if len(positions) > _SHOWN else ""
        noun = "id is" if len(positions) == 1 else "ids are"
        raise IdsError(f"{len(positions)} {noun} {what}; positions (from 0): {shown}{more}")
