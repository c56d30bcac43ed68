"""Plans as JSON and back, without loss: metadata keep their exact encoded bytes, types go by name.

Values that JSON holds exactly (whole numbers, booleans, valid text, finite floats) are written to be read; arrays and
everything else are written as the bytes of the file, in base64.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import TYPE_CHECKING, Any

from gguftool.errors import GGUFToolError, PlanError
from gguftool.format.metadata import Metadata, MetaValue, ValueType
from gguftool.format.quanttypes import BY_ID, QuantType, unknown_type

if TYPE_CHECKING:
    from gguftool.plan.moves import Move, Origin, Piece, Plan, Range


def plan_to_data(plan: Plan) -> dict[str, Any]:
    """The plan as dicts, lists, numbers and strings."""
    from gguftool.plan.moves import SCHEMA

    return {
        "schema": SCHEMA,
        "alignment": plan.alignment,
        "keep_split": plan.keep_split,
        "sources": [
            {"path": s.path, "size": s.size, "mtime_ns": s.mtime_ns, "header_sha256": s.header_sha256}
            for s in plan.sources
        ],
        "metadata": [_entry_to_data(key, value) for key, value in plan.metadata.entries()],
        "moves": [_move_to_data(m) for m in plan.moves],
        "dropped": list(plan.dropped),
        "warnings": list(plan.warnings),
        "problems": list(plan.problems),
    }


def plan_from_json(text: str) -> Plan:
    """The plan of ``plan_to_data``; PlanError when the text is no plan, or of another schema."""
    from gguftool.plan.moves import SCHEMA, Plan, SourceFile

    try:
        data = json.loads(text)
        if data["schema"] != SCHEMA:
            raise PlanError(
                [f"this plan has schema {data['schema']}, this version reads {SCHEMA}: make the plan again"]
            )
        return Plan(
            Metadata.of([_entry_from_data(e) for e in data["metadata"]]),
            tuple(SourceFile(s["path"], s["size"], s["mtime_ns"], s["header_sha256"]) for s in data["sources"]),
            tuple(_move_from_data(m) for m in data["moves"]),
            data["alignment"],
            data["keep_split"],
            tuple(data["dropped"]),
            tuple(data["warnings"]),
            tuple(data["problems"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as trouble:
        raise PlanError([f"not a plan: {trouble!r}"]) from None
    except GGUFToolError as trouble:
        raise trouble if isinstance(trouble, PlanError) else PlanError([f"not a plan: {trouble}"]) from None


def _entry_to_data(key: str, value: MetaValue) -> dict[str, Any]:
    row: dict[str, Any] = {"key": key, "type": value.type.name}
    if value.type is not ValueType.ARRAY:
        plain = value.value
        if not (isinstance(plain, float) and not math.isfinite(plain)) and _exact(plain, value):
            return row | {"value": plain}
    if value.element_type is not None:
        row |= {"element": value.element_type.name, "count": value.count}
    return row | {"base64": base64.b64encode(value.raw).decode()}


def _exact(plain: Any, value: MetaValue) -> bool:
    try:
        if isinstance(plain, str):
            plain.encode()
        return MetaValue.of(plain, value.type).raw == value.raw
    except (ValueError, GGUFToolError):
        return False


def _entry_from_data(row: dict[str, Any]) -> tuple[str, MetaValue]:
    kind = ValueType[row["type"]]
    if "value" in row:
        return row["key"], MetaValue.of(row["value"], kind)
    element = ValueType[row["element"]] if "element" in row else None
    return row["key"], MetaValue(kind, base64.b64decode(row["base64"], validate=True), element, row.get("count"))


def _type(type_id: int) -> QuantType:
    return BY_ID.get(type_id) or unknown_type(type_id)


def _move_to_data(move: Move) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": move.name,
        "shape": list(move.shape),
        "type": move.type.name,
        "type_id": move.type.id,
        "pieces": [_piece_to_data(p) for p in move.pieces],
    }
    if move.shard:
        row["shard"] = move.shard
    if move.wanted is not None:
        row["wanted"] = move.wanted.id
    if move.reason:
        row["reason"] = move.reason
    if move.replaces is not None:
        row["replaces"] = move.replaces.id
    return row


def _move_from_data(row: dict[str, Any]) -> Move:
    from gguftool.plan.moves import Move

    wanted = _type(row["wanted"]) if "wanted" in row else None
    return Move(
        row["name"],
        tuple(row["shape"]),
        _type(row["type_id"]),
        tuple(_piece_from_data(p) for p in row["pieces"]),
        row.get("shard", 0),
        wanted,
        row.get("reason", ""),
        _type(row["replaces"]) if "replaces" in row else None,
    )


def _piece_to_data(piece: Piece) -> dict[str, Any]:
    origin = piece.source
    row: dict[str, Any] = {
        "tensor": origin.name,
        "shape": list(origin.shape),
        "type_id": origin.type.id,
        "nbytes": origin.nbytes,
        "shard": origin.shard,
        "offset": origin.offset,
    }
    if piece.rows is not None:
        row["rows"] = [list(r) for r in piece.rows]
    if piece.columns is not None:
        row["columns"] = [list(r) for r in piece.columns]
    if piece.importance is not None:
        row["importance"] = piece.importance
    if piece.matrix is not None:
        row["matrix"] = piece.matrix
    return row


def _piece_from_data(row: dict[str, Any]) -> Piece:
    from gguftool.plan.moves import Origin, Piece

    origin: Origin = Origin(
        row["tensor"], tuple(row["shape"]), _type(row["type_id"]), row["nbytes"], row["shard"], row["offset"]
    )
    return Piece(
        origin, _ranges(row.get("rows")), _ranges(row.get("columns")), row.get("importance"), row.get("matrix")
    )


def _ranges(rows: list[list[int]] | None) -> tuple[Range, ...] | None:
    return None if rows is None else tuple((start, stop) for start, stop in rows)
