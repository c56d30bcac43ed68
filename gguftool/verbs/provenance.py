"""The metadata that say how a file was made: the keys every quantizer sets, and ours."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from gguftool.format.metadata import Metadata, MetaValue, ValueType

Edits = dict[str, MetaValue | None]

_GUESSED = 1024
#: IQ2_K, IQ3_K, IQ4_K, IQ5_K, IQ4_KS, IQ5_KS in general.file_type; ik_llama.cpp numbers their _R4 forms 200 further on.
_PLAIN_NUMBERS = frozenset((138, 139, 140, 141, 145, 150))
_INTERLEAVED = 200


@dataclass(frozen=True, slots=True)
class ImatrixUse:
    """The importance matrix of a run: path as typed, its datasets, entries left by the filters, chunks (0: unknown)."""

    path: str
    datasets: tuple[str, ...]
    n_entries: int
    n_chunks: int


def tool_version() -> str:
    """The version of this package, installed or not."""
    return str(importlib.import_module("gguftool").__version__)


def quantizer_edits(
    metadata: Metadata, file_type: int | None, imatrix: ImatrixUse | None, overridden: Sequence[str] = ()
) -> Edits:
    """The keys that a quantized file has: version, file type, imatrix. Keys given by hand are left as they were given.

    Keys of an importance matrix that the source was made with go away: they say nothing about this file. The first
    dataset stands in the key that others read, all of them in one of ours.
    """
    edits: Edits = {key: None for key in metadata if key.startswith("quantize.imatrix.")}
    edits["general.quantization_version"] = MetaValue.of(2, ValueType.U32)
    if file_type is not None:
        edits["general.file_type"] = MetaValue.of(file_type, ValueType.U32)
    if imatrix is not None:
        edits["quantize.imatrix.file"] = _text(imatrix.path)
        if imatrix.datasets:
            edits["quantize.imatrix.dataset"] = _text(imatrix.datasets[0])
            edits["quantize.imatrix.datasets"] = MetaValue.of(list(imatrix.datasets), ValueType.ARRAY, ValueType.STRING)
        edits["quantize.imatrix.entries_count"] = MetaValue.of(imatrix.n_entries, ValueType.U32)
        if imatrix.n_chunks > 0:
            edits["quantize.imatrix.chunks_count"] = MetaValue.of(imatrix.n_chunks, ValueType.U32)
    return {key: value for key, value in edits.items() if key not in overridden}


def copy_edits(metadata: Metadata, overridden: Sequence[str] = (), *, unpacked: bool = False) -> Edits:
    """What a copy changes: the mark "guessed" that some programs leave in the file type goes, and with interleaved rows
    the number of a TYPE that had them."""
    number = metadata.get("general.file_type")
    if not isinstance(number, int) or isinstance(number, bool) or "general.file_type" in overridden:
        return {}
    new = number & ~_GUESSED
    if unpacked and new - _INTERLEAVED in _PLAIN_NUMBERS:
        new -= _INTERLEAVED
    return {} if new == number else {"general.file_type": MetaValue.of(new, ValueType.U32)}


def our_edits(
    metadata: Metadata, recipe: Sequence[str], pruned: Sequence[int], effort: str, objective: str | None
) -> Edits:
    """Our own keys: tool and kernels, TYPE and rules in order, pruned layers by their old numbers."""
    edits: Edits = {key: None for key in metadata if key.startswith("gguftool.") and key != "gguftool.pruned_layers"}
    edits["gguftool.version"] = MetaValue.of(tool_version(), ValueType.STRING)
    if recipe:
        from gguftool.codecs.dispatch import KERNELS_VERSION

        edits["gguftool.kernels"] = MetaValue.of(KERNELS_VERSION, ValueType.STRING)
        edits["gguftool.recipe"] = MetaValue.of(list(recipe), ValueType.ARRAY, ValueType.STRING)
        edits["gguftool.effort"] = MetaValue.of(effort, ValueType.STRING)
        if objective is not None:
            edits["gguftool.objective"] = MetaValue.of(objective, ValueType.STRING)
    if pruned:
        edits["gguftool.pruned_layers"] = MetaValue.of(list(pruned), ValueType.ARRAY, ValueType.U32)
    return edits


def _text(value: str) -> MetaValue:
    """A string cut to the 127 bytes that other programs keep, at a character's end."""
    raw = value.encode(errors="surrogateescape")[:127]
    return MetaValue.of(raw.decode(errors="ignore"), ValueType.STRING)
