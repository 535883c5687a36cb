"""Describes the messages of the protocol: their fields, and their layout on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect as types

from docs.generator.docstrings import doc, entries, indented_blocks, sections
from docs.generator.markdown import number, table
from heterofed.protocol import codec, messages


def span(low: float | None, high: float | None) -> str:
    """` 1 to 10^9`, or as much of it as there is."""
    parts = ([number(low)] if low is not None else []) + (["to"] if high is not None else [])
    return "".join(f" {each}" for each in [*parts, *([number(high)] if high is not None else [])])


def type_text(kind: types.Type) -> str:  # one line per kind of type is easiest to read
    """What a field may hold."""
    match kind:
        case types.BoolType():
            return "boolean"
        case types.NoneType():
            return "nil"
        case types.IntType(ge=low, le=high):
            return f"integer{span(low, high)}"
        case types.FloatType(ge=low, le=high):
            return f"number{span(low, high)}"
        case types.BytesType(min_length=least, max_length=most):
            return f"{most} bytes" if least == most else f"at most {most:,} bytes"
        case types.StrType(max_length=most, pattern=pattern):
            return f"text, at most {most} characters" + (f", `{pattern}`" if pattern else "")
        case types.LiteralType(values=values):
            return "one of " + ", ".join(
                f'"{each}"' if isinstance(each, str) else f"{each:,}" for each in values
            )
        case types.VarTupleType(item_type=item, min_length=least, max_length=most):
            return f"list of {least or 0} to {most}: {type_text(item)}"
        case types.TupleType(item_types=items):
            return "(" + "; ".join(type_text(each) for each in items) + ")"
        case types.StructType(cls=cls):
            return f"[`{cls.__name__}`](#{cls.__name__.lower()})"
        case types.UnionType(types=kinds):
            return ", or ".join(type_text(each) for each in kinds)
    raise TypeError(f"no words for {kind!r}")


def fields_of(struct: type[msgspec.Struct]) -> Iterator[types.Field]:
    """The fields of a struct, in the order of the wire."""
    kind = types.type_info(struct)
    if not isinstance(kind, types.StructType):
        raise TypeError(f"{struct.__name__} is no struct")
    yield from kind.fields


def message_table() -> str:
    """Every message: who says it, what it means, its fields in order."""
    return table(
        ["message", "who", "meaning", "fields, in order"],
        (
            [
                f"`{kind.__name__}`",
                (words := " ".join(doc(kind).split())).partition(": ")[0],
                words.partition(": ")[2],
                "<br>".join(f"`{each.name}`: {type_text(each.type)}" for each in fields_of(kind))
                or "none",
            ]
            for kind in messages.MESSAGE_TYPES
        ),
    )


def struct_table(struct: type[msgspec.Struct]) -> str:
    """The fields of a struct that travels inside messages."""
    meanings = dict(entries(sections(doc(struct)).get("Attributes", "")))
    described = [
        [f"`{each.name}`", type_text(each.type), _default(each), meanings.get(each.name, "")]
        for each in fields_of(struct)
    ]
    shown = [column for column in range(4) if any(row[column] for row in described)]
    head = ["field", "type", "default", "meaning"]
    return table(
        [head[column] for column in shown],
        ([row[column] for column in shown] for row in described),
    )


def _default(field: types.Field) -> str:
    if field.required:
        return ""
    value: Any = field.default
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else str(value)


def dtype_table() -> str:
    """What a tensor may be made of."""
    return table(
        ["dtype", "bytes", "takes gradients"],
        (
            [f"`{name}`", str(size), "yes" if name in messages.GRADIENT_DTYPES else "no"]
            for name, size in messages.ITEM_BYTES.items()
        ),
    )


def wire_format() -> str:
    """The layout of a message, from the module that implements it."""
    return "```text\n" + "\n".join(indented_blocks(doc(codec))) + "\n```"
