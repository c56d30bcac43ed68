"""``KEY=TYPE:VALUE``: metadata given by hand, as llama-quantize's --override-kv takes it.

Differences: a number must be one from its first to its last character; a negative integer keeps its sign (i32), one
beyond 32 bits its size (u64, i64); text may be longer than 127 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gguftool.errors import UsageError
from gguftool.format.metadata import MetaValue, ValueType

#: Readers look for other files when these are there.
_OURS = ("split.no", "split.count", "split.tensors.count")


def parse_overrides(items: Sequence[str]) -> dict[str, MetaValue]:
    """Keys and values of all items, a later one replacing an earlier one; UsageError for one that means nothing."""
    return dict(_parse(item) for item in items)


def _parse(item: str) -> tuple[str, MetaValue]:
    key, equals, rest = item.partition("=")
    kind, colon, text = rest.partition(":")
    if not equals or not colon or not key or len(key.encode(errors="surrogateescape")) > 127:
        raise UsageError(f"--override-kv '{item}': write KEY=TYPE:VALUE with TYPE int, float, bool or str")
    if key in _OURS:
        raise UsageError(f"--override-kv '{item}': how a model is cut into files is not set by hand, see --keep-split")
    if kind == "str":
        return key, MetaValue.of(text, ValueType.STRING)
    if kind == "bool":
        if text not in ("true", "false"):
            raise UsageError(f"--override-kv '{item}': a bool is true or false")
        return key, MetaValue.of(text == "true", ValueType.BOOL)
    if kind == "int":
        return key, _integer(item, text)
    if kind == "float":
        try:
            number = float(text)
        except ValueError:
            raise UsageError(f"--override-kv '{item}': '{text}' is no number") from None
        if abs(number) > 3.4028235e38 and math.isfinite(number):
            raise UsageError(f"--override-kv '{item}': too large for a 32-bit float")
        return key, MetaValue.of(number, ValueType.F32)
    raise UsageError(f"--override-kv '{item}': unknown type '{kind}', choose int, float, bool or str")


def _integer(item: str, text: str) -> MetaValue:
    try:
        number = int(text, 10)
    except ValueError:
        raise UsageError(f"--override-kv '{item}': '{text}' is no whole number") from None
    kinds = (ValueType.U32, ValueType.U64) if number >= 0 else (ValueType.I32, ValueType.I64)
    for kind, bits in zip(kinds, (32, 64), strict=True):
        low, high = (0, 1 << bits) if number >= 0 else (-(1 << (bits - 1)), 1)
        if low <= number < high:
            return MetaValue.of(number, kind)
    raise UsageError(f"--override-kv '{item}': {number} does not fit 64 bits")
