"""Where every byte of the output goes, known before any work starts: header, offsets, sizes, shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.format.writer import encode_header, tensor_offsets
from gguftool.plan.moves import Move, Plan


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file to write: ``moves`` are indices into the plan's moves, ``offsets`` count from the file's start."""

    header: bytes
    moves: tuple[int, ...]
    offsets: tuple[int, ...]
    size: int


def lay_out(plan: Plan) -> tuple[OutputFile, ...]:
    """The files of a plan: one, or as many as there are shards with tensors under ``keep_split``.

    Only the first shard has the model's metadata. CodecError where the rows of a tensor do not fit its type.
    """
    groups: dict[int, list[int]] = {}
    for number, move in enumerate(plan.moves):
        groups.setdefault(move.shard if plan.keep_split else 0, []).append(number)
    shards = [groups[shard] for shard in sorted(groups)] or [[]]
    files = []
    for no, numbers in enumerate(shards):
        metadata = plan.metadata if no == 0 else _alignment_key(plan)
        if len(shards) > 1:
            metadata = metadata.replaced(_split_keys(no, len(shards), len(plan.moves)))
        files.append(_lay_out_file(metadata, numbers, [plan.moves[n] for n in numbers], plan.alignment))
    return tuple(files)


def _lay_out_file(metadata: Metadata, numbers: Sequence[int], moves: Sequence[Move], alignment: int) -> OutputFile:
    offsets, data_size = tensor_offsets([m.nbytes for m in moves], alignment)
    tensors = [(m.name, m.shape, m.type, offset) for m, offset in zip(moves, offsets, strict=True)]
    header = encode_header(metadata, tensors, alignment)
    start = len(header)
    return OutputFile(header, tuple(numbers), tuple(start + offset for offset in offsets), start + data_size)


def _alignment_key(plan: Plan) -> Metadata:
    """What a further shard needs of the model's metadata: readers take 32 where this key is absent."""
    key = "general.alignment"
    return Metadata.of([(key, plan.metadata.entry(key))] if key in plan.metadata else [])


def _split_keys(no: int, count: int, n_tensors: int) -> dict[str, MetaValue | None]:
    return {
        "split.no": MetaValue.of(no, ValueType.U16),
        "split.count": MetaValue.of(count, ValueType.U16),
        "split.tensors.count": MetaValue.of(n_tensors, ValueType.I32),
    }
