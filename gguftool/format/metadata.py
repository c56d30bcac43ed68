"""Metadata of a GGUF file: every value keeps the exact bytes in which the file encoded it.

A copy therefore loses nothing: ``i32`` never becomes ``u32``, empty strings and arrays stay, and the quarter of a
million strings of a vocabulary are decoded only when somebody looks at them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from gguftool.errors import UsageError


class ValueType(IntEnum):
    """The value types of GGUF."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


#: struct codes of the types of fixed size.
CODES: dict[ValueType, str] = {
    ValueType.U8: "B",
    ValueType.I8: "b",
    ValueType.U16: "H",
    ValueType.I16: "h",
    ValueType.U32: "I",
    ValueType.I32: "i",
    ValueType.F32: "f",
    ValueType.BOOL: "?",
    ValueType.U64: "Q",
    ValueType.I64: "q",
    ValueType.F64: "d",
}
SIZES: dict[ValueType, int] = {t: struct.calcsize("<" + c) for t, c in CODES.items()}


@dataclass(frozen=True, slots=True)
class MetaValue:
    """One value: ``raw`` is its payload as encoded, a string with its length, an array with element type and count."""

    type: ValueType
    raw: bytes
    element_type: ValueType | None = None
    count: int | None = None

    @property
    def value(self) -> Any:
        """The value as int, float, bool, str or a list of them; bytes that are no UTF-8 become surrogates."""
        if self.type is ValueType.STRING:
            return self.raw[8:].decode("utf-8", "surrogateescape")
        if self.type is not ValueType.ARRAY:
            return struct.unpack("<" + CODES[self.type], self.raw)[0]
        return self.head(self.count or 0)

    def head(self, n: int) -> list[Any]:
        """The first ``n`` elements of an array, decoded; the rest is not looked at. UsageError for anything else."""
        if self.element_type is None or self.count is None:
            raise UsageError(f"a value of type {self.type.name.lower()} has no elements")
        n = min(n, self.count)
        if self.element_type is ValueType.STRING:
            return _strings(self.raw, n)
        return list(struct.unpack_from(f"<{n}{CODES[self.element_type]}", self.raw, 12))

    @classmethod
    def of(cls, value: Any, type: ValueType, element_type: ValueType | None = None) -> MetaValue:
        """The value encoded as that type; UsageError if it does not fit."""
        try:
            if type is not ValueType.ARRAY:
                return cls(type, _encode(value, type))
            if element_type is None or element_type is ValueType.ARRAY:
                raise UsageError("an array in metadata needs an element type that is no array")
            body = b"".join(_encode(v, element_type) for v in value)
            return cls(type, struct.pack("<iQ", element_type, len(value)) + body, element_type, len(value))
        except (struct.error, TypeError, AttributeError, OverflowError, ValueError) as error:
            what = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
            raise UsageError(f"{what} cannot be stored as {type.name.lower()}: {error}") from error


def _encode(value: Any, type: ValueType) -> bytes:
    if type is ValueType.STRING:
        raw = value.encode("utf-8", "surrogateescape")
        return struct.pack("<Q", len(raw)) + bytes(raw)
    if isinstance(value, bool) is not (type is ValueType.BOOL):
        raise TypeError("true and false are of type bool, and of no other")
    return struct.pack("<" + CODES[type], value)


def _strings(raw: bytes, count: int) -> list[str]:
    found, at, length = [], 12, struct.Struct("<Q").unpack_from
    for _ in range(count):
        (n,) = length(raw, at)
        found.append(raw[at + 8 : at + 8 + n].decode("utf-8", "surrogateescape"))
        at += 8 + n
    return found


class Metadata(Mapping[str, Any]):
    """Keys to decoded values, in the file's order; ``entry`` and ``entries`` give the exact encoded ones."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[str, MetaValue]) -> None:
        self._entries = dict(entries)

    @classmethod
    def of(cls, entries: Iterable[tuple[str, MetaValue]]) -> Metadata:
        """Metadata of (key, value) pairs; of equal keys the last counts."""
        return cls(dict(entries))

    def __getitem__(self, key: str) -> Any:
        return self._entries[key].value

    def __contains__(self, key: object) -> bool:
        return key in self._entries  # Mapping's own would decode the value

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metadata) and list(self._entries.items()) == list(other._entries.items())

    def __hash__(self) -> int:
        return hash(tuple(self._entries.items()))

    def __repr__(self) -> str:
        return f"Metadata({', '.join(self._entries)})"

    def entry(self, key: str) -> MetaValue:
        """The encoded value of the key; KeyError if it is not there."""
        return self._entries[key]

    def entries(self) -> Iterator[tuple[str, MetaValue]]:
        """(key, encoded value) in order."""
        return iter(self._entries.items())

    def replaced(self, edits: Mapping[str, MetaValue | None]) -> Metadata:
        """A copy with values set (in place, new keys at the end) and, for None, removed."""
        merged: dict[str, MetaValue | None] = {**self._entries, **edits}
        return Metadata({key: value for key, value in merged.items() if value is not None})
