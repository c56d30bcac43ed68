"""Importance matrices as files, in both forms, entry by entry; the output appears whole or not at all.

What a form cannot hold is said by ``losses`` before anything is written:

* The GGUF form keeps counts as float32, exact up to 2^24, and takes names of at most 55 bytes.
* The older form keeps the mean of each matrix, one number of calls per entry, and one data set. A matrix that no token
  reached is filled with 1, as llama-imatrix does; an entry without any token is left out.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from gguftool.errors import ImatrixError, UsageError
from gguftool.format.atomic import atomic_output
from gguftool.format.layout import padded, tensor_offsets
from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.format.quanttypes import type_by_name
from gguftool.format.writer import encode_header
from gguftool.imatrix.contents import CHUNK_SIZE, several
from gguftool.imatrix.experts import experts_by_routers
from gguftool.imatrix.file import ImatrixEntry
from gguftool.imatrix.matrices import Matrices, Outline

FORMATS = ("gguf", "dat")
_ALIGNMENT = 32
_LONGEST_NAME = 63 - len(".in_sum2")
_EXACT_COUNTS = 1 << 24
_I32, _U32 = (1 << 31) - 1, (1 << 32) - 1
_FILLER = 1.0


def format_of(path: Path, wanted: str | None) -> str:
    """ "gguf" or "dat": what is wanted, else what the suffix says; UsageError if neither does."""
    if wanted is not None:
        if wanted not in FORMATS:
            raise UsageError(f"'{wanted}' is no format of importance matrices: gguf or dat")
        return wanted
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise UsageError(f"{path}: name it .gguf or .dat, or say --output-format gguf or dat")
    return suffix


def write_imatrix(path: Path, matrices: Matrices, format: str, *, overwrite: bool = False) -> None:
    """Writes the file; one entry is in memory at a time.

    ImatrixError for what the form cannot hold at all (a name too long, a sum beyond float32), FileExistsError if there
    is a file already and ``overwrite`` is not set. Nothing is left behind then.
    """
    _check(path, matrices, format)
    with atomic_output(path, overwrite=overwrite) as file:
        (_write_gguf if format == "gguf" else _write_dat)(file, path, matrices)


def losses(matrices: Matrices, format: str) -> tuple[str, ...]:
    """What of the matrices the form does not keep, one line each, with names."""
    if format == "gguf":
        large = [outline.name for outline in matrices.outlines if _inexact(outline.counts)]
        return tuple(several(large, "token counts above 16,777,216 are rounded to float32"))
    return (*_lost_entries(matrices), *_lost_counts(matrices), *_lost_provenance(matrices))


def unreached(outline: Outline) -> str:
    """The name, and which of several matrices no token reached: ``blk.1.ffn_up_exps.weight[3,17]``."""
    if outline.n_mat == 1:
        return outline.name
    found = np.flatnonzero(outline.counts == 0)
    more = ",..." if found.size > 8 else ""
    return f"{outline.name}[{','.join(map(str, found[:8]))}{more}]"


def _lost_entries(matrices: Matrices) -> list[str]:
    empty = [outline.name for outline in matrices.outlines if not outline.counts.any()]
    filled = [unreached(outline) for outline in matrices.outlines if outline.counts.any() and not outline.counts.all()]
    signed = [outline.name for outline in matrices.outlines if outline.signed]
    return [
        *several(empty, "no token came by, so the older form has no place for it"),
        *_all(filled, "not reached by any token, written as mean 1 as llama-imatrix does"),
        *several(signed, "the signed sums are lost in the older form"),
    ]


def _all(found: list[str], what: str) -> list[str]:
    return [f"{', '.join(found)}: {what}"] if found else []


def _lost_counts(matrices: Matrices) -> list[str]:
    size = matrices.chunk_size
    used = [outline for outline in matrices.outlines if outline.counts.any()]
    own = [o.name for o in used if np.unique(o.counts[o.counts > 0]).size > 1]
    parts = [o.name for o in used if o.name not in set(own) and int(o.counts.max()) % size]
    told = experts_by_routers({o.name: (1, o.n_mat * o.n_cols) for o in used})
    flat = [o.name for o in used if o.n_mat > 1 and told.get(o.name) != o.n_mat]
    return [
        *several(own, "how many tokens each matrix saw is lost in the older form, the means are kept"),
        *several(parts, f"tokens are rounded up to whole chunks of {size} in the older form, the means are kept"),
        *several(flat, "the older form does not say how many matrices these are: read it with the model, or --experts"),
    ]


def _lost_provenance(matrices: Matrices) -> list[str]:
    lines = []
    if len(matrices.datasets) > 1:
        lines.append(f"the older form names one data set, the last; lost: {', '.join(matrices.datasets[:-1])}")
    if matrices.chunk_size != CHUNK_SIZE:
        lines.append(
            f"the older form does not keep the chunk size: read it with --chunk-size {matrices.chunk_size} to get the "
            "same token counts"
        )
    if len(matrices.extra):
        lines.append(f"metadata lost in the older form: {', '.join(matrices.extra)}")
    return lines


def _check(path: Path, matrices: Matrices, format: str) -> None:
    if not any(outline.counts.any() or format == "gguf" for outline in matrices.outlines):
        raise ImatrixError(path, "nothing to write: no entry has any token")
    limit = _U32 if format == "gguf" else _I32
    if not 1 <= matrices.chunk_size <= limit or not 0 <= matrices.chunk_count <= limit:
        raise ImatrixError(path, f"{matrices.chunk_count} chunks of {matrices.chunk_size} tokens cannot be stored")
    for outline in matrices.outlines:
        length = len(outline.name.encode())
        if format == "gguf" and length > _LONGEST_NAME:
            raise ImatrixError(
                path,
                f"the name '{outline.name}' has {length} bytes, a GGUF file holds {_LONGEST_NAME}: write .dat, or "
                "leave it out with --exclude",
            )
        if format == "dat" and max(outline.n_mat * outline.n_cols, outline.calls(matrices.chunk_size)) > _I32:
            raise ImatrixError(path, f"'{outline.name}' has too many values or chunks for the older form: write .gguf")


def _inexact(counts: npt.NDArray[np.int64]) -> bool:
    return bool((counts > _EXACT_COUNTS).any() and (counts.astype(np.float32).astype(np.int64) != counts).any())


def _write_gguf(file: BinaryIO, path: Path, matrices: Matrices) -> None:
    f32 = type_by_name("f32")
    shapes: list[tuple[str, tuple[int, int]]] = []
    for outline in matrices.outlines:
        shape, name = (outline.n_mat, outline.n_cols), outline.name
        shapes += [(f"{name}.in_sum2", shape), (f"{name}.counts", (outline.n_mat, 1))]
        if outline.signed:
            shapes.append((f"{name}.in_sum", shape))
    offsets, _ = tensor_offsets([4 * rows * cols for _, (rows, cols) in shapes], _ALIGNMENT)
    tensors = [(name, shape, f32, offset) for (name, shape), offset in zip(shapes, offsets, strict=True)]
    file.write(encode_header(_metadata(matrices), tensors, _ALIGNMENT))
    for outline in matrices.outlines:
        entry = matrices.read(outline.name)
        _put(file, _singles(path, entry, entry.sums))
        _put(file, outline.counts.astype("<f4"))
        if outline.signed:
            assert entry.signed is not None
            _put(file, _singles(path, entry, entry.signed))


def _metadata(matrices: Matrices) -> Metadata:
    usual = {
        "general.type": MetaValue.of("imatrix", ValueType.STRING),
        "imatrix.datasets": MetaValue.of(list(matrices.datasets), ValueType.ARRAY, ValueType.STRING),
        "imatrix.chunk_count": MetaValue.of(matrices.chunk_count, ValueType.U32),
        "imatrix.chunk_size": MetaValue.of(matrices.chunk_size, ValueType.U32),
    }
    return Metadata({**usual, **dict(matrices.extra.entries())})


def _write_dat(file: BinaryIO, path: Path, matrices: Matrices) -> None:
    used = [outline for outline in matrices.outlines if outline.counts.any()]
    file.write(struct.pack("<i", len(used)))
    for outline in used:
        raw, calls = outline.name.encode(), outline.calls(matrices.chunk_size)
        entry = matrices.read(outline.name)
        means = entry.sums / np.maximum(outline.counts, 1)[:, None]
        means[outline.counts == 0] = _FILLER
        file.write(struct.pack("<i", len(raw)) + raw + struct.pack("<ii", calls, means.size))
        file.write(_singles(path, entry, means * calls).tobytes())
    dataset = (matrices.datasets[-1] if matrices.datasets else "").encode("utf-8", "surrogateescape")
    file.write(struct.pack("<ii", matrices.chunk_count, len(dataset)) + dataset)


def _singles(path: Path, entry: ImatrixEntry, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The values as little-endian float32; ImatrixError where one does not fit."""
    with np.errstate(over="ignore"):
        found = values.astype("<f4")
    if not np.isfinite(found).all():
        matrix, column = np.argwhere(~np.isfinite(found))[0]
        raise ImatrixError(
            path,
            f"'{entry.name}', matrix {matrix}, column {column}: {values[matrix, column]:g} does not fit float32: "
            "merge fewer files, or leave it out",
        )
    return found


def _put(file: BinaryIO, values: npt.NDArray[np.float32]) -> None:
    raw = values.tobytes()
    file.write(raw + bytes(padded(len(raw), _ALIGNMENT) - len(raw)))
