"""The older, binary form of an importance matrix (``.dat``), as llama-imatrix wrote it and ik_llama.cpp still does.

    i32 number of entries
    per entry: i32 length of the name, the name, i32 calls, i32 number of values, float32 values
    and perhaps: i32 chunks, i32 length of the data set's name, that name

No magic, no version, no checksum, so the only defence is that every length is held against the bytes that are left. A
value is the mean square per token times the number of calls. The experts of a tensor lie end to end, and how many they
are is not recorded. Matrices that no token reached are filled with 1 by the writers.
"""

from __future__ import annotations

import struct

import numpy as np

from gguftool.errors import ImatrixError
from gguftool.imatrix.contents import CHUNK_SIZE, Contents, Slot, several
from gguftool.imatrix.pages import Pages

_SMALLEST_ENTRY = 4 + 1 + 4 + 4 + 4
_LONGEST_NAME = 4096
_NO_IMATRIX = "is this an importance matrix, and complete?"


def scan_legacy(pages: Pages, chunk_size: int | None) -> Contents:
    """The entries of a file of the older form; ``chunk_size`` (512 if None) turns its calls into tokens.

    ImatrixError for everything that cannot be such a file. A cut trailer, duplicate names (the last counts, as
    upstream) and values that were never multiplied by a number of calls are warned of.
    """
    if pages.size == 0:
        raise ImatrixError(pages.path, "the file is empty")
    if pages.size < 4:
        raise ImatrixError(pages.path, f"the file has only {pages.size} bytes: {_NO_IMATRIX}")
    (n_entries,) = struct.unpack("<i", pages.read(0, 4))
    if n_entries < 1:
        raise ImatrixError(pages.path, f"it claims {n_entries} entries: {_NO_IMATRIX}", 0)
    if n_entries > (pages.size - 4) // _SMALLEST_ENTRY:
        raise ImatrixError(
            pages.path, f"it claims {n_entries} entries, which {pages.size} bytes cannot hold: {_NO_IMATRIX}", 0
        )
    slots: dict[str, Slot] = {}
    repeated, unscaled, at = [], [], 4
    for number in range(n_entries):
        slot = _entry(pages, at, number, chunk_size or CHUNK_SIZE)
        if slot.name in slots:
            repeated.append(slot.name)
        if slot.n_calls is None:
            unscaled.append(slot.name)
        slots[slot.name] = slot
        at = slot.sums_at + 4 * slot.n_values
    chunks, dataset, cut = _trailer(pages, at)
    warnings = several(repeated, "more than one entry of that name, the last one counts")
    warnings += several(unscaled, "no number of calls, so the values are taken as mean squares as they are")
    return Contents(
        "dat", slots, (dataset,) if dataset else (), chunks, chunk_size, (*warnings, *([cut] if cut else []))
    )


def _entry(pages: Pages, at: int, number: int, chunk_size: int) -> Slot:
    head = pages.read(at, 4)
    left = pages.size - at - 4
    where = f"entry {number + 1}"
    if len(head) < 4:
        raise ImatrixError(pages.path, f"the file ends before {where}: {_NO_IMATRIX}", at)
    (length,) = struct.unpack("<i", head)
    if not 1 <= length <= _LONGEST_NAME or length + 8 > left:
        raise ImatrixError(pages.path, f"{where} has a name of {length} bytes, {left} are left: {_NO_IMATRIX}", at)
    raw = pages.read(at + 4, length + 8)
    if len(raw) < length + 8:
        raise ImatrixError(pages.path, "the file became shorter while it was open", at)
    name = _name(pages, raw[:length], at + 4, where)
    calls, n_values = struct.unpack_from("<ii", raw, length)
    values_at = at + 4 + length + 8
    if n_values < 1 or 4 * n_values > pages.size - values_at:
        raise ImatrixError(
            pages.path,
            f"{where}, '{name}', claims {n_values} values, {pages.size - values_at} bytes are left: {_NO_IMATRIX}",
            values_at - 4,
        )
    counts = np.array([max(calls, 1) * chunk_size], np.int64)
    scaled = calls > 0
    return Slot(
        name, 1, n_values, counts, values_at, None, float(chunk_size), calls if scaled else None, unit_is_filler=scaled
    )


def _name(pages: Pages, raw: bytes, at: int, where: str) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = "\0"
    if "\0" in name:
        raise ImatrixError(pages.path, f"the name of {where} is not text ({raw[:24]!r}): {_NO_IMATRIX}", at)
    return name


def _trailer(pages: Pages, at: int) -> tuple[int | None, str, str]:
    """(chunks, data set, warning). Files without a trailer, or with the chunks alone, come from old programs."""
    cut = "the end of the file is cut: the name of the data set is lost, the values are complete"
    left = pages.size - at
    if left == 0:
        return None, "", ""
    head = pages.read(at, 8)
    if left < 4:
        return None, "", cut
    (chunks,) = struct.unpack_from("<i", head)
    known = chunks if chunks >= 0 else None
    if left < 8:
        return known, "", "" if left == 4 else cut
    (length,) = struct.unpack_from("<i", head, 4)
    if not 0 <= length <= left - 8:
        return known, "", cut
    text = pages.read(at + 8, min(length, _LONGEST_NAME))
    return known, text.decode("utf-8", "backslashreplace"), ""
