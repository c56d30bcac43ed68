"""What a written model is made of: a Plan of Moves, each built from Pieces of the source. Plain data.

One ``Move`` is one output tensor. Its ``Piece`` objects say which rows and columns of which source tensor follow one
another in it, and which vector of the importance matrix goes with them. A plain copy is one whole piece. Every other
write (another type, fewer layers, cut columns) is the same data with other values, so one executor does them all.

Edits are pure: ``Plan.of(model).prune(...).retype(...).with_metadata(...)``, each seeing the names the one before made.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gguftool.errors import UsageError
from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.format.names import sort_key
from gguftool.format.quanttypes import UNPACKABLE, QuantType

if TYPE_CHECKING:
    from gguftool.format.reader import Model, TensorInfo
    from gguftool.plan.importances import Importances
    from gguftool.recipe.decide import Recipe

#: Changes whenever the meaning of a serialised plan does.
SCHEMA = 1

#: Of what is set by hand: a header is padded to it in memory.
_MAX_ALIGNMENT = 1 << 20
#: Start and stop, stop not included.
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One shard of the source as it was when the plan was made: any difference later means another file."""

    path: str
    size: int
    mtime_ns: int
    header_sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """A tensor of the source: ``offset`` counts from the start of its shard's file, ``shape`` is in numpy order."""

    name: str
    shape: tuple[int, ...]
    type: QuantType
    nbytes: int
    shard: int
    offset: int

    @property
    def n_cols(self) -> int:
        return self.shape[-1]

    @property
    def n_rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def rows_per_matrix(self) -> int:
        """Rows that share one importance vector: all of a 2-D tensor, one expert of a stack of experts."""
        return self.shape[-2] if len(self.shape) > 1 else 1

    @property
    def n_matrices(self) -> int:
        return math.prod(self.shape[:-2])


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows and columns of one source tensor, in order; None means all of them.

    ``rows`` count over all leading axes flattened. ``importance`` names an entry of the importance matrix; its matrix
    is the one of the row's own expert, or always ``matrix`` where that is given.
    """

    source: Origin
    rows: tuple[Range, ...] | None = None
    columns: tuple[Range, ...] | None = None
    importance: str | None = None
    matrix: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it is the source tensor from the first byte to the last."""
        return self.rows is None and self.columns is None

    @property
    def n_rows(self) -> int:
        return self.source.n_rows if self.rows is None else sum(stop - start for start, stop in self.rows)

    @property
    def n_cols(self) -> int:
        return self.source.n_cols if self.columns is None else sum(stop - start for start, stop in self.columns)

    @property
    def cuts_blocks(self) -> bool:
        """Whether the kept columns cannot be had by moving whole blocks, the head of the row with them: they must be
        decoded."""
        size = self.source.type.block_size
        return any(edge % size for run in self.columns or () for edge in run)

    def unpacks_to(self, target: QuantType) -> bool:
        """Whether whole interleaved rows become the same rows of their plain type: no value changes."""
        kind = self.source.type
        return kind.name in UNPACKABLE and kind.unpacked == target.name and self.columns is None

    def row_runs(self) -> Iterator[Range]:
        """The kept rows as ranges of the source, cut where one importance matrix ends and the next begins."""
        per_matrix = max(1, self.source.rows_per_matrix)
        for start, stop in self.rows if self.rows is not None else ((0, self.source.n_rows),):
            while start < stop:
                end = min(stop, (start // per_matrix + 1) * per_matrix)
                yield start, end
                start = end

    def matrix_of(self, row: int) -> int:
        """The importance matrix that belongs to a source row."""
        return self.matrix if self.matrix is not None else row // max(1, self.source.rows_per_matrix)


@dataclass(frozen=True, slots=True)
class Move:
    """One output tensor: name, shape (numpy order), type, and the pieces whose rows follow one another in it.

    ``wanted`` is the type that was asked for where the rows did not fit it, ``replaces`` the one that would be stored
    if llama.cpp read it, ``reason`` says what chose the type. They are for people and do not count towards the plan's
    hash. ``shard`` is the output shard under ``keep_split``.
    """

    name: str
    shape: tuple[int, ...]
    type: QuantType
    pieces: tuple[Piece, ...]
    shard: int = 0
    wanted: QuantType | None = None
    reason: str = ""
    replaces: QuantType | None = None

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def copied(self) -> bool:
        """Whether every stored value stays as it is, interleaved rows taken apart or not."""
        return all(p.source.type == self.type or p.unpacks_to(self.type) for p in self.pieces)

    @property
    def whole(self) -> bool:
        """Whether the output's bytes are those of one source tensor, all of them."""
        return len(self.pieces) == 1 and self.pieces[0].whole and self.pieces[0].source.type == self.type

    @property
    def nbytes(self) -> int:
        """Bytes stored, padding not counted; CodecError where the rows do not fit the type."""
        return self.pieces[0].source.nbytes if self.whole else self.type.nbytes(self.shape)


@dataclass(frozen=True)
class Plan:
    """A model to be written: metadata, tensors in their order, and the source they come from.

    ``dropped`` are the pruned layers by their old numbers; ``warnings`` are for people, ``problems`` are what an edit
    found that must not be written.
    """

    metadata: Metadata
    sources: tuple[SourceFile, ...]
    moves: tuple[Move, ...]
    alignment: int
    keep_split: bool = False
    dropped: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Model, *, keep_split: bool = False, file_order: bool = False) -> Plan:
        """The plan that copies ``model``: tensors by layer and name as llama-quantize orders them, or, with
        ``keep_split`` or ``file_order``, by shard and place in the file."""
        tensors = list(model.tensors)
        if not (keep_split or file_order):
            tensors.sort(key=lambda t: sort_key(t.name))
        sources = tuple(SourceFile(str(s.path), s.size, s.mtime_ns, s.header_sha256) for s in model.shards)
        drop = {k: None for k in ("split.no", "split.count", "split.tensors.count")}
        return cls(
            model.metadata.replaced(drop),
            sources,
            tuple(_copy_of(t, t.shard if keep_split else 0) for t in tensors),
            model.alignment,
            keep_split,
        )

    def prune(self, layers: Collection[int], **allowed: bool) -> Plan:
        """This plan without those layers, the rest renumbered and per-layer metadata with them.

        ``allowed`` are the switches of ``plan.layers.prune_layers``. Raises PlanError with the reason where the
        metadata cannot say what would be left.
        """
        from gguftool.plan.surgery import without_layers

        return without_layers(self, layers, **allowed)

    def unpack(self) -> Plan:
        """This plan with interleaved rows taken apart, to the plain types; a problem for each type that stays woven."""
        from gguftool.plan.surgery import with_plain_rows

        return with_plain_rows(self)

    def retype(self, recipe: Recipe, importances: Importances | None = None) -> Plan:
        """This plan with the types that the recipe decides and the importance vectors that go with them."""
        from gguftool.plan.retype import retyped

        return retyped(self, recipe, importances)

    def with_metadata(self, edits: Mapping[str, MetaValue | None]) -> Plan:
        """This plan with keys set, or removed where the value is None. ``general.alignment`` moves the tensors too."""
        metadata = self.metadata.replaced(edits)
        key = "general.alignment"
        if key not in edits:
            return replace(self, metadata=metadata)
        alignment = metadata.get(key, 32)
        kind = metadata.entry(key).type if key in metadata else ValueType.U32
        if kind is not ValueType.U32 or alignment & (alignment - 1) or not 1 <= alignment <= _MAX_ALIGNMENT:
            raise UsageError(f"{key} = {alignment!r}: readers want a power of two, here up to {_MAX_ALIGNMENT}")
        return replace(self, metadata=metadata, alignment=alignment)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, row headers included, padding and metadata not: what llama-quantize calls the size."""
        return sum(m.nbytes for m in self.moves)

    @property
    def n_elements(self) -> int:
        return sum(m.n_elements for m in self.moves)

    @property
    def bpw(self) -> float:
        """Bits per weight over what is kept."""
        return 8 * self.nbytes / self.n_elements if self.n_elements else 0.0

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything that decides the output's bytes, given the source: not paths, not reasons."""
        digest = hashlib.sha256()
        data = self.to_data()
        for key, value in self.metadata.entries():
            digest.update(repr((key, int(value.type), value.element_type, hashlib.sha256(value.raw).digest())).encode())
        for move in data["moves"]:
            move.pop("wanted", None)
            move.pop("reason", None)
            move.pop("replaces", None)
        core = {k: data[k] for k in ("schema", "alignment", "keep_split", "moves")}
        digest.update(json.dumps(core, sort_keys=True).encode())
        return digest.hexdigest()

    def to_data(self) -> dict[str, Any]:
        """The plan as JSON's own types; ``plan.serial`` has the way back."""
        from gguftool.plan.serial import plan_to_data

        return plan_to_data(self)

    def to_json(self, indent: int | None = None) -> str:
        """The plan as JSON text; ``Plan.from_json`` gives an equal plan back."""
        return json.dumps(self.to_data(), indent=indent, ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that ``to_json`` wrote; PlanError when the text is not one."""
        from gguftool.plan.serial import plan_from_json

        return plan_from_json(text)


def _copy_of(tensor: TensorInfo, shard: int) -> Move:
    origin = Origin(tensor.name, tensor.shape, tensor.type, tensor.nbytes, tensor.shard, tensor.offset)
    return Move(tensor.name, tensor.shape, tensor.type, (Piece(origin),), shard)
