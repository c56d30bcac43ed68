"""The GGUF form of an importance matrix: per weight N raw sums ``N.in_sum2`` and ``N.counts``, all float32.

With experts the sums are [n_mat, n_cols] and there is a count for each. A weight of several matrices that all saw
every token (heads) has one count and one long row. A fork adds ``N.in_sum`` (signed sums) and ``N.stats`` (figures that
go stale as soon as files are merged: they are left alone and computed anew).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gguftool.errors import ImatrixError
from gguftool.format.metadata import Metadata, ValueType
from gguftool.format.reader import Model, TensorInfo, open_model
from gguftool.imatrix.contents import Contents, Slot, several
from gguftool.imatrix.pages import Pages

_SUMS, _COUNTS, _SIGNED, _STATS = ".in_sum2", ".counts", ".in_sum", ".stats"
_KEYS = ("general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
#: Says how the file itself is laid out or what its stored figures mean; goes with neither values nor provenance.
_OF_THE_FILE = ("general.alignment", "imatrix.stats_schema")
_MOST_COUNTS = 1 << 53
_Groups = dict[str, dict[str, TensorInfo]]


def scan_gguf(pages: Pages, path: Path) -> Contents:
    """The entries of a file that starts with GGUF's magic.

    FormatError if it is no valid GGUF, ImatrixError if it is no importance matrix. Counts are read, values are not.
    """
    with open_model(path, single_shard=True) as model:
        if (model.shards[0].size, model.shards[0].mtime_ns) != (pages.size, pages.mtime_ns):
            raise ImatrixError(path, "the file changed while it was opened: try again")
        warnings = _kind(path, model.metadata)
        groups, ignored = _groups(model)
        if not groups:
            raise ImatrixError(path, "it holds no importances (no tensor ends in .in_sum2): is it an imatrix file?")
        rounded: list[str] = []
        slots = {name: _slot(pages, name, parts, rounded) for name, parts in groups.items()}
        datasets, said = _datasets(model.metadata)
        warnings += said + several(rounded, "fractional counts, rounded")
        chunk_count = _integer(model.metadata, "imatrix.chunk_count", warnings)
        chunk_size = _integer(model.metadata, "imatrix.chunk_size", warnings)
        key = "imatrix.n_layer_nextn"
        nextn_layers = _integer(model.metadata, key, warnings) if key in model.metadata else None
        extra = Metadata.of(item for item in model.metadata.entries() if item[0] not in (*_KEYS, *_OF_THE_FILE))
    figures = sum(_STATS in parts for parts in groups.values())
    return Contents(
        "gguf", slots, datasets, chunk_count, chunk_size, tuple(warnings), ignored, nextn_layers, extra, figures
    )


def _kind(path: Path, metadata: Metadata) -> list[str]:
    kind = metadata.get("general.type")
    if kind == "imatrix":
        return []
    if kind == "model":
        raise ImatrixError(path, "general.type says that this is a model, not an importance matrix")
    said = "is missing" if kind is None else f"is {kind!r}"
    return [f"general.type {said}, where 'imatrix' is expected"]


def _groups(model: Model) -> tuple[_Groups, tuple[str, ...]]:
    """Tensors by entry name and suffix, and the names of those that belong to no entry."""
    groups: _Groups = {}
    for tensor in model.tensors:
        for suffix in (_SUMS, _COUNTS):
            if tensor.name.endswith(suffix):
                groups.setdefault(tensor.name.removesuffix(suffix), {})[suffix] = tensor
    ignored = []
    for tensor in model.tensors:
        name, dot, suffix = tensor.name.rpartition(".")
        if dot + suffix in (_SIGNED, _STATS) and name in groups:
            groups[name][dot + suffix] = tensor
        elif dot + suffix not in (_SUMS, _COUNTS):
            ignored.append(tensor.name)
    return groups, tuple(ignored)


def _slot(pages: Pages, name: str, parts: dict[str, TensorInfo], rounded: list[str]) -> Slot:
    """One entry, with every tensor of it held against the others; appends its name to ``rounded`` if counts were."""
    _check_name(pages.path, name, parts)
    for suffix in (_SUMS, _COUNTS, _SIGNED):
        if suffix in parts and parts[suffix].type.name != "f32":
            raise ImatrixError(pages.path, f"tensor '{name}{suffix}' is {parts[suffix].type.name}, f32 is expected")
    sums, signed = parts[_SUMS], parts.get(_SIGNED)
    n_values, n_mat = sums.n_elements, parts[_COUNTS].n_elements
    if n_mat < 1 or n_values < 1:
        raise ImatrixError(pages.path, f"'{name}' has {n_values} values and {n_mat} counts, not one of each at least")
    rows = n_values // max(1, sums.shape[-1])
    if n_values % n_mat or (rows > 1 and n_mat > 1 and rows != n_mat):
        raise ImatrixError(
            pages.path, f"'{name}' has {n_values} values in {rows} rows, which do not go with its {n_mat} counts"
        )
    if signed is not None and signed.n_elements != n_values:
        raise ImatrixError(pages.path, f"'{name}' has {n_values} sums of squares but {signed.n_elements} signed sums")
    counts = _counts(pages, name, parts[_COUNTS], rounded)
    return Slot(name, n_mat, n_values // n_mat, counts, sums.offset, signed.offset if signed else None)


def _check_name(path: Path, name: str, parts: dict[str, TensorInfo]) -> None:
    if not name or "\0" in name or any("\ud800" <= c <= "\udfff" for c in name):
        raise ImatrixError(path, f"the entry name {name!a} is not text")
    for suffix, other in ((_SUMS, _COUNTS), (_COUNTS, _SUMS)):
        if other not in parts:
            longest = 63 - len(_SUMS)
            cut = f" (llama-imatrix cuts names longer than {longest} bytes)" if len(name.encode()) >= longest else ""
            raise ImatrixError(path, f"'{name}' has {suffix} but no {other}{cut}: make the file again")


def _counts(pages: Pages, name: str, tensor: TensorInfo, rounded: list[str]) -> npt.NDArray[np.int64]:
    found = pages.floats(tensor.offset, tensor.n_elements).astype(np.float64)
    bad = ~((found >= 0) & (found <= _MOST_COUNTS))
    if bad.any():
        first = int(np.argmax(bad))
        raise ImatrixError(
            pages.path,
            f"tensor '{name}', matrix {first}: {found[first]:g} is no number of tokens",
            tensor.offset + 4 * first,
        )
    whole = np.rint(found)
    if (whole != found).any():
        rounded.append(name)
    return whole.astype(np.int64)


def _datasets(metadata: Metadata) -> tuple[tuple[str, ...], list[str]]:
    if "imatrix.datasets" not in metadata:
        return (), ["imatrix.datasets is missing: what the matrix was made from is unknown"]
    entry = metadata.entry("imatrix.datasets")
    if entry.element_type is ValueType.STRING:
        return tuple(entry.value), []
    return (), ["imatrix.datasets is no array of strings: what the matrix was made from is unknown"]


def _integer(metadata: Metadata, key: str, warnings: list[str]) -> int | None:
    if key not in metadata:
        warnings.append(f"{key} is missing")
        return None
    entry = metadata.entry(key)
    if entry.type in (ValueType.ARRAY, ValueType.STRING, ValueType.BOOL, ValueType.F32, ValueType.F64):
        warnings.append(f"{key} is no number of the integer kind, so it is left out")
        return None
    if entry.type is not ValueType.U32:
        warnings.append(f"{key} is stored as {entry.type.name.lower()}, u32 is usual")
    if entry.value < 0:
        warnings.append(f"{key} is {entry.value}, so it is left out")
        return None
    return int(entry.value)
