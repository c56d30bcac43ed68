"""The TYPE words of llama-quantize: their numbers in ``general.file_type`` and the block type they start from.

Numbers and names: the ``general.file_type`` table of llama.cpp, and ik_llama.cpp's for its own types. Number 41 means
Q2_0 in the one and Q1_0_G128 in the other; here the number has llama.cpp's meaning, and the other is had by name.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from gguftool.errors import RecipeError, UnknownTypeError
from gguftool.format.quanttypes import QuantType, type_by_name


@dataclass(frozen=True, slots=True)
class FileType:
    """One TYPE. ``number`` and ``base`` are None for COPY only; ``family`` is mainline, ik or copy.

    ``name`` is the canonical spelling, as it goes into a default output name. ``mixture`` is the name whose mixture
    is used; it differs from ``name`` only where two names mean the same mixture.
    """

    name: str
    number: int | None
    base: QuantType | None
    family: str
    mixture: str

    @property
    def is_copy(self) -> bool:
        """Whether nothing at all is converted."""
        return self.base is None

    @property
    def is_float(self) -> bool:
        """Whether the base type is f32, f16 or bf16, for which there is no mixture."""
        return self.base is not None and self.base.kind == "float"


_MAINLINE = (
    "F32 0 f32, F16 1 f16, Q4_0 2 q4_0, Q4_1 3 q4_1, Q8_0 7 q8_0, Q5_0 8 q5_0, Q5_1 9 q5_1, Q2_K 10 q2_K, "
    "Q3_K_S 11 q3_K, Q3_K_M 12 q3_K, Q3_K_L 13 q3_K, Q4_K_S 14 q4_K, Q4_K_M 15 q4_K, Q5_K_S 16 q5_K, Q5_K_M 17 "
    "q5_K, Q6_K 18 q6_K, IQ2_XXS 19 iq2_xxs, IQ2_XS 20 iq2_xs, Q2_K_S 21 q2_K, IQ3_XS 22 iq3_s, IQ3_XXS 23 "
    "iq3_xxs, IQ1_S 24 iq1_s, IQ4_NL 25 iq4_nl, IQ3_S 26 iq3_s, IQ3_M 27 iq3_s, IQ2_S 28 iq2_xs, IQ2_M 29 "
    "iq2_s, IQ4_XS 30 iq4_xs, IQ1_M 31 iq1_m, BF16 32 bf16, TQ1_0 36 tq1_0, TQ2_0 37 tq2_0, MXFP4_MOE 38 "
    "mxfp4, Q1_0 40 q1_0, Q2_0 41 q2_0"
)
_IK = (
    "Q6_0 135 q6_0, IQ1_BN 136 iq1_bn, IQ2_BN 137 iq2_bn, IQ2_K 138 iq2_k, IQ3_K 139 iq3_k, IQ4_K 140 iq4_k, "
    "IQ5_K 141 iq5_k, IQ6_K 142 iq6_k, IQ4_KS 145 iq4_ks, IQ3_KL 146 iq3_k, IQ2_KS 147 iq2_ks, IQ4_KSS 148 "
    "iq4_kss, Q8_KV 149 q8_KV, IQ5_KS 150 iq5_ks, IQ2_KT 151 iq2_kt, IQ3_KT 152 iq3_kt, IQ4_KT 153 iq4_kt, "
    "IQ3_KS 154 iq3_ks, IQ2_KL 155 iq2_kl, IQ1_KT 156 iq1_kt"
)


def _rows(text: str, family: str) -> list[FileType]:
    rows = (row.split() for row in text.split(", "))
    return [FileType(name, int(number), type_by_name(base), family, name) for name, number, base in rows]


FILE_TYPES: tuple[FileType, ...] = (
    *_rows(_MAINLINE, "mainline"),
    *_rows(_IK, "ik"),
    FileType("Q1_0_G128", 41, type_by_name("q1_0"), "mainline", "Q1_0"),
    FileType("COPY", None, None, "copy", "COPY"),
)

#: Other spellings: the plain K names mean the medium mixture.
ALIASES: dict[str, str] = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

_BY_NAME: dict[str, FileType] = {t.name: t for t in FILE_TYPES}
_BY_NAME |= {alias: _BY_NAME[name] for alias, name in ALIASES.items()}
_BY_NUMBER: dict[int, FileType] = {t.number: t for t in reversed(FILE_TYPES) if t.number is not None}
_BY_NUMBER[41] = _BY_NAME["Q2_0"]
_GONE = {
    4: "was a mixture of 2023 that no program makes any more",
    5: "was q4_2, which no program reads any more",
    6: "was q4_3, which no program reads any more",
    33: "was q4_0_4_4, which is repacked at load time today: use Q4_0",
    34: "was q4_0_4_8, which is repacked at load time today: use Q4_0",
    35: "was q4_0_8_8, which is repacked at load time today: use Q4_0",
    39: "is NVFP4, which can be read but is no TYPE: use `--tensor-type` rules to nvfp4",
    1024: "is the mark 'guessed', not a TYPE",
}


def file_type_by_name(text: str) -> FileType:
    """The TYPE that a name (any case) or a whole-word ``general.file_type`` number means.

    0 is F32, never COPY. Raises RecipeError with the nearest names, or with the reason why a known number or block
    type is no TYPE.
    """
    word = text.strip()
    if word.isascii() and word.isdigit():
        number = int(word) if len(word) < 10 else -1
        found = _BY_NUMBER.get(number)
        if found is None:
            why = _GONE.get(number, "means nothing")
            raise RecipeError(f"file type number {word[:20]} {why}; give a TYPE by name, such as Q4_K_M")
        return found
    found = _BY_NAME.get(word.upper())
    if found is None:
        raise RecipeError(_unknown(word))
    return found


def _unknown(word: str) -> str:
    shown = word if len(word) <= 40 else word[:40] + "..."
    try:
        block = type_by_name(word)
    except UnknownTypeError:
        block = None
    if block is not None and block.unpacked is not None:
        plain = block.unpacked.upper()
        return f"TYPE '{shown}' interleaves rows: make {plain} and let ik_llama.cpp interleave it when it loads"
    if block is not None and block.kind == "quant" and block.is_target:
        return (
            f"'{shown}' is a tensor type but no TYPE of a whole file: "
            f"take a near TYPE and the rule `--tensor-type .*={block.name}`"
        )
    near = difflib.get_close_matches(word.upper()[:40], list(_BY_NAME), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "such as Q4_K_M, IQ4_KSS, F16 or COPY"
    return f"unknown TYPE '{shown}': {hint}"
