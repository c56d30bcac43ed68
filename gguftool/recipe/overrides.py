"""--override-kv: a key of the metadata replaced or added, as ``KEY=TYPE:VALUE``."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable

from gguftool.errors import GGUFToolError, RecipeError
from gguftool.format.metadata import MetaValue, ValueType

_MAX_KEY = 65535
_INT = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII)


def parse_override(text: str) -> tuple[str, MetaValue]:
    """The key and the value that ``KEY=TYPE:VALUE`` spells; TYPE is int, float, bool or str.

    ``int`` becomes u32, or i32 when negative (upstream drops the sign); what fits neither is refused, as is anything
    that is not wholly a number. ``float`` is stored as f32, ``bool`` is exactly true or false, ``str`` is all that
    follows the colon (upstream cuts at 127 bytes). Arrays and 64-bit values cannot be given. RecipeError otherwise.
    """
    key, sign, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    key = key.strip()
    if not sign or not colon or not key:
        raise RecipeError(f"--override-kv '{text[:80]}': it reads KEY=TYPE:VALUE, such as general.name=str:My model")
    if len(key.encode("utf-8", "surrogateescape")) > _MAX_KEY:
        raise RecipeError(f"--override-kv: the key '{key[:40]}...' is longer than {_MAX_KEY} bytes")
    where = f"--override-kv {key[:80]}"
    try:
        return key, _encoded(kind.strip(), value, where)
    except (GGUFToolError, UnicodeEncodeError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{where}: {error}") from None


def parse_overrides(texts: Iterable[str]) -> dict[str, MetaValue]:
    """The overrides of several options by key; a key given twice takes the last value."""
    return dict(parse_override(text) for text in texts)


def _encoded(kind: str, value: str, where: str) -> MetaValue:
    word = value.strip()
    if kind == "int":
        number = int(word) if _INT.fullmatch(word) else None
        if number is None:
            raise RecipeError(f"{where}: '{word[:40]}' is no whole number")
        if not -(2**31) <= number < 2**32:
            raise RecipeError(f"{where}: {word} does not fit 32 bits; it must lie between -2147483648 and 4294967295")
        return MetaValue.of(number, ValueType.U32 if number >= 0 else ValueType.I32)
    if kind == "float":
        real = float(word) if _FLOAT.fullmatch(word) else math.nan
        if not math.isfinite(real):
            raise RecipeError(f"{where}: '{word[:40]}' is no finite number")
        try:
            struct.pack("<f", real)
        except OverflowError:
            raise RecipeError(f"{where}: {word[:40]} is too large for an f32") from None
        return MetaValue.of(real, ValueType.F32)
    if kind == "bool":
        if word not in ("true", "false"):
            raise RecipeError(f"{where}: a bool is exactly true or false, not '{word[:40]}'")
        return MetaValue.of(word == "true", ValueType.BOOL)
    if kind == "str":
        return MetaValue.of(value, ValueType.STRING)
    raise RecipeError(f"{where}: '{kind[:40]}' is no type; it is int, float, bool or str")
