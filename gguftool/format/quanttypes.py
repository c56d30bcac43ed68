"""The block types of ggml and ik_llama.cpp: what a stored tensor's type id says about its bytes.

A row of ``n`` elements takes ``row_header + n / block_size * block_bytes`` bytes, a tensor takes that times its
number of rows (plus ``tensor_trailer`` for i2_s, whose scale is stored once behind all rows). Types with
``rows_interleaved > 1`` weave that many rows together: whole groups may move, single rows may not.

Sources: ggml's type table (ids 0..42), ik_llama.cpp's (its own ids up to 399). K-quants are spelled with a capital
K, as both projects do; everything else is lower case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gguftool.errors import CodecError, UnknownTypeError


@dataclass(frozen=True, slots=True)
class QuantType:
    """One block type. ``kind``: float, int, quant, or internal (run-time activations, never in a file).

    ``runtime`` says who reads it: ``both``, ``mainline`` (llama.cpp) or ``ik`` (ik_llama.cpp and its relatives).
    ``needs_imatrix``: llama-quantize refuses to make it without one. ``unpacked`` is the plain type of an
    interleaved one.
    """

    name: str
    id: int
    block_size: int
    block_bytes: int
    kind: str
    runtime: str
    row_header: int = 0
    rows_interleaved: int = 1
    tensor_trailer: int = 0
    unpacked: str | None = None
    needs_imatrix: bool = False

    def row_nbytes(self, n_cols: int) -> int:
        """Bytes of one row of ``n_cols`` elements; CodecError if blocks do not fill it."""
        if n_cols % self.block_size:
            raise CodecError(
                f"a row of {n_cols} elements cannot be {self.name}: it is no multiple of {self.block_size}; "
                "choose a type of smaller blocks"
            )
        return self.row_header + n_cols // self.block_size * self.block_bytes

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of ``shape`` (numpy order, the last axis is the row); 0 when an axis is 0."""
        rows = math.prod(shape[:-1])
        if not shape:
            return self.row_nbytes(1)
        if rows == 0 or shape[-1] == 0:
            return 0
        return rows * self.row_nbytes(shape[-1]) + self.tensor_trailer

    @property
    def bpw(self) -> float:
        """Bits per weight of the blocks alone, row headers left out."""
        return 8 * self.block_bytes / self.block_size

    @property
    def is_target(self) -> bool:
        """Whether a tensor may be converted to it: floats up to 32 bits and plain block types."""
        return self.name in ("f32", "f16", "bf16") or (
            self.kind == "quant" and self.unpacked is None and not self.tensor_trailer
        )


TYPES: tuple[QuantType, ...] = (
    QuantType("f32", 0, 1, 4, "float", "both"),
    QuantType("f16", 1, 1, 2, "float", "both"),
    QuantType("q4_0", 2, 32, 18, "quant", "both"),
    QuantType("q4_1", 3, 32, 20, "quant", "both"),
    QuantType("q5_0", 6, 32, 22, "quant", "both"),
    QuantType("q5_1", 7, 32, 24, "quant", "both"),
    QuantType("q8_0", 8, 32, 34, "quant", "both"),
    QuantType("q8_1", 9, 32, 36, "internal", "both"),
    QuantType("q2_K", 10, 256, 84, "quant", "both"),
    QuantType("q3_K", 11, 256, 110, "quant", "both"),
    QuantType("q4_K", 12, 256, 144, "quant", "both"),
    QuantType("q5_K", 13, 256, 176, "quant", "both"),
    QuantType("q6_K", 14, 256, 210, "quant", "both"),
    QuantType("q8_K", 15, 256, 292, "internal", "both"),
    QuantType("iq2_xxs", 16, 256, 66, "quant", "both", needs_imatrix=True),
    QuantType("iq2_xs", 17, 256, 74, "quant", "both", needs_imatrix=True),
    QuantType("iq3_xxs", 18, 256, 98, "quant", "both", needs_imatrix=True),
    QuantType("iq1_s", 19, 256, 50, "quant", "both", needs_imatrix=True),
    QuantType("iq4_nl", 20, 32, 18, "quant", "both"),
    QuantType("iq3_s", 21, 256, 110, "quant", "both"),
    QuantType("iq2_s", 22, 256, 82, "quant", "both", needs_imatrix=True),
    QuantType("iq4_xs", 23, 256, 136, "quant", "both"),
    QuantType("i8", 24, 1, 1, "int", "both"),
    QuantType("i16", 25, 1, 2, "int", "both"),
    QuantType("i32", 26, 1, 4, "int", "both"),
    QuantType("i64", 27, 1, 8, "int", "both"),
    QuantType("f64", 28, 1, 8, "float", "both"),
    QuantType("iq1_m", 29, 256, 56, "quant", "both", needs_imatrix=True),
    QuantType("bf16", 30, 1, 2, "float", "both"),
    QuantType("q4_0_4_4", 31, 32, 18, "quant", "ik", rows_interleaved=4, unpacked="q4_0"),
    QuantType("q4_0_4_8", 32, 32, 18, "quant", "ik", rows_interleaved=4, unpacked="q4_0"),
    QuantType("q4_0_8_8", 33, 32, 18, "quant", "ik", rows_interleaved=8, unpacked="q4_0"),
    QuantType("tq1_0", 34, 256, 54, "quant", "mainline"),
    QuantType("tq2_0", 35, 256, 66, "quant", "mainline"),
    QuantType("i2_s", 36, 4, 1, "quant", "ik", tensor_trailer=32),
    QuantType("mxfp4", 39, 32, 17, "quant", "both"),
    QuantType("nvfp4", 40, 64, 36, "quant", "mainline"),
    QuantType("q1_0", 41, 128, 18, "quant", "both"),
    QuantType("q2_0", 42, 64, 18, "quant", "mainline"),
    QuantType("q8_0_x4", 97, 32, 34, "internal", "ik"),
    QuantType("q8_1_x4", 98, 32, 36, "internal", "ik"),
    QuantType("q8_2_x4", 99, 32, 36, "internal", "ik"),
    QuantType("q6_0", 133, 32, 26, "quant", "ik"),
    QuantType("iq1_bn", 134, 64, 13, "quant", "ik", row_header=2),
    QuantType("iq2_bn", 135, 64, 16, "quant", "ik", row_header=4),
    QuantType("q8_k64", 136, 64, 68, "internal", "ik"),
    QuantType("iq2_k", 137, 256, 76, "quant", "ik"),
    QuantType("iq3_k", 138, 256, 110, "quant", "ik"),
    QuantType("iq4_k", 139, 256, 144, "quant", "ik"),
    QuantType("iq5_k", 140, 256, 176, "quant", "ik"),
    QuantType("iq6_k", 141, 256, 212, "quant", "ik"),
    QuantType("iq4_ks", 144, 256, 136, "quant", "ik", row_header=4),
    QuantType("iq2_ks", 145, 256, 70, "quant", "ik", row_header=2),
    QuantType("iq4_kss", 146, 256, 128, "quant", "ik", row_header=4),
    QuantType("q8_k16", 147, 64, 64, "internal", "ik", row_header=20),
    QuantType("q8_k32", 148, 256, 296, "internal", "ik"),
    QuantType("q8_kr8", 149, 256, 296, "internal", "ik"),
    QuantType("q8_k128", 150, 128, 140, "internal", "ik"),
    QuantType("q8_KV", 151, 32, 32, "quant", "ik", row_header=8),
    QuantType("iq5_ks", 152, 256, 168, "quant", "ik", row_header=4),
    QuantType("iq2_kt", 153, 256, 68, "quant", "ik", row_header=4, needs_imatrix=True),
    QuantType("iq3_kt", 154, 256, 100, "quant", "ik", row_header=4),
    QuantType("iq4_kt", 155, 256, 128, "quant", "ik", row_header=4),
    QuantType("iq3_ks", 156, 256, 102, "quant", "ik", row_header=2),
    QuantType("iq2_kl", 157, 256, 86, "quant", "ik", row_header=2),
    QuantType("iq1_kt", 158, 256, 56, "quant", "ik", row_header=4, needs_imatrix=True),
    QuantType("q4_0_r8", 202, 32, 18, "quant", "ik", rows_interleaved=8, unpacked="q4_0"),
    QuantType("q5_0_r4", 206, 32, 22, "quant", "ik", rows_interleaved=4, unpacked="q5_0"),
    QuantType("q8_0_r8", 208, 32, 34, "quant", "ik", rows_interleaved=8, unpacked="q8_0"),
    QuantType("q2_k_r4", 210, 256, 84, "quant", "ik", rows_interleaved=4, unpacked="q2_K"),
    QuantType("q3_k_r4", 211, 256, 110, "quant", "ik", rows_interleaved=4, unpacked="q3_K"),
    QuantType("q4_k_r4", 212, 256, 144, "quant", "ik", rows_interleaved=4, unpacked="q4_K"),
    QuantType("q5_k_r4", 213, 256, 176, "quant", "ik", rows_interleaved=4, unpacked="q5_K"),
    QuantType("q6_k_r4", 214, 256, 210, "quant", "ik", rows_interleaved=4, unpacked="q6_K"),
    QuantType("iq2_xxs_r4", 216, 256, 66, "quant", "ik", rows_interleaved=4, unpacked="iq2_xxs", needs_imatrix=True),
    QuantType("iq2_xs_r4", 217, 256, 74, "quant", "ik", rows_interleaved=4, unpacked="iq2_xs", needs_imatrix=True),
    QuantType("iq3_xxs_r4", 218, 256, 98, "quant", "ik", rows_interleaved=4, unpacked="iq3_xxs"),
    QuantType(
        "iq1_s_r4", 219, 32, 6, "quant", "ik", row_header=2, rows_interleaved=4, unpacked="iq1_s", needs_imatrix=True
    ),
    QuantType("iq4_nl_r4", 220, 32, 18, "quant", "ik", rows_interleaved=4, unpacked="iq4_nl"),
    QuantType("iq3_s_r4", 221, 256, 110, "quant", "ik", rows_interleaved=4, unpacked="iq3_s"),
    QuantType("iq2_s_r4", 222, 256, 82, "quant", "ik", rows_interleaved=4, unpacked="iq2_s", needs_imatrix=True),
    QuantType("iq4_xs_r8", 223, 256, 136, "quant", "ik", rows_interleaved=8, unpacked="iq4_xs"),
    QuantType(
        "iq1_m_r4", 229, 32, 7, "quant", "ik", row_header=2, rows_interleaved=4, unpacked="iq1_m", needs_imatrix=True
    ),
    QuantType("bf16_r16", 230, 1, 2, "quant", "ik", rows_interleaved=16, unpacked="bf16"),
    QuantType("q6_0_r4", 233, 32, 26, "quant", "ik", rows_interleaved=4, unpacked="q6_0"),
    QuantType("iq2_bn_r4", 335, 64, 16, "quant", "ik", row_header=4, rows_interleaved=4, unpacked="iq2_bn"),
    QuantType("iq2_k_r4", 337, 256, 76, "quant", "ik", rows_interleaved=4, unpacked="iq2_k"),
    QuantType("iq3_k_r4", 338, 256, 110, "quant", "ik", rows_interleaved=4, unpacked="iq3_k"),
    QuantType("iq4_k_r4", 339, 256, 144, "quant", "ik", rows_interleaved=4, unpacked="iq4_k"),
    QuantType("iq5_k_r4", 340, 256, 176, "quant", "ik", rows_interleaved=4, unpacked="iq5_k"),
    QuantType("iq4_ks_r4", 344, 256, 136, "quant", "ik", row_header=4, rows_interleaved=4, unpacked="iq4_ks"),
    QuantType("iq5_ks_r4", 352, 256, 168, "quant", "ik", row_header=4, rows_interleaved=4, unpacked="iq5_ks"),
    QuantType("mxfp4_r8", 353, 32, 17, "quant", "ik", rows_interleaved=8, unpacked="mxfp4"),
    QuantType("q8_k_r16", 397, 256, 258, "quant", "ik", rows_interleaved=16, unpacked="q8_K"),
    QuantType("q8_KV_r8", 398, 32, 32, "quant", "ik", row_header=4, rows_interleaved=8, unpacked="q8_KV"),
    QuantType("q8_k_r8", 399, 256, 258, "quant", "ik", rows_interleaved=8, unpacked="q8_K"),
)

BY_ID: dict[int, QuantType] = {t.id: t for t in TYPES}
_BY_NAME: dict[str, QuantType] = {t.name.lower(): t for t in TYPES} | {"q1_0_g128": BY_ID[41]}

#: The interleaved types whose rows can be taken apart again; the others are copied as they are.
UNPACKABLE = frozenset(("iq2_k_r4", "iq3_k_r4", "iq4_k_r4", "iq5_k_r4", "iq4_ks_r4", "iq5_ks_r4"))

#: Ids that once named a type and are refused by both projects today.
RETIRED_IDS: dict[int, str] = {4: "q4_2", 5: "q4_3", 37: "iq4_nl_4_8", 38: "iq4_nl_8_8", 142: "iq2_tn", 143: "iq1_tn"}


def why_woven(t: QuantType) -> str:
    """What to say of interleaved rows that were asked to be more than copied."""
    if t.name in UNPACKABLE:
        return f"its rows are interleaved: `gguftool copy --unpack` makes it {t.unpacked}, without loss"
    return "its rows are interleaved in a way that only ik_llama.cpp undoes: it can be copied, nothing else"


def type_by_name(name: str) -> QuantType:
    """The type of that name, in any case; UnknownTypeError names the nearest ones."""
    found = _BY_NAME.get(name.strip().lower())
    if found is None:
        import difflib  # costs as much as the rest of the reader, and is for mistakes only

        near = difflib.get_close_matches(name.lower(), list(_BY_NAME), n=3)
        hint = f"did you mean {', '.join(_BY_NAME[n].name for n in near)}?" if near else "`gguftool types` lists them"
        raise UnknownTypeError(f"unknown tensor type '{name}': {hint}")
    return found


def unknown_type(type_id: int) -> QuantType:
    """A stand-in for an id that no table knows: it can be listed and copied by its stored span, nothing else."""
    return QuantType(f"type {type_id}", type_id, 1, 0, "unknown", "unknown")
