"""Numbers with their units, for people: bytes, seconds, values."""

from __future__ import annotations

import math

BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def bytes_shown(count: float) -> str:
    """A number of bytes: `0 B`, `429 B`, `2.4 kB`, `13.0 MB`."""
    if count < 1000:
        return f"{count:.0f} B"
    power = min(int(math.log10(count) // 3), len(BYTES) - 1)
    if round(count / 1000**power, 1) >= 1000 and power < len(BYTES) - 1:
        power += 1
    return f"{count / 1000**power:.1f} {BYTES[power]}"


def seconds_shown(seconds: float) -> str:
    """A time: `0.3 s`, `59.9 s`, `2 min 05 s`, `3 h 20 min`, `4 d 01 h`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours:02} h"


def delay_shown(seconds: float) -> str:
    """A delay: `0.4 ms`, `83 ms`, `1.2 s`."""
    if round(seconds, 3) >= 1:
        return seconds_shown(seconds)
    return f"{1000 * seconds:.1f} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"


def value_shown(value: float) -> str:
    """A number to four digits: `0.8123`, `12,345`, `1.2e-05`; whole ones as they are."""
    if not math.isfinite(value):
        return {math.inf: "\u221e", -math.inf: "-\u221e"}.get(value, "not a number")
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 10_000:
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.3e}"
    return f"{value:.4g}"
