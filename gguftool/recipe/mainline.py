"""The type of llama.cpp that comes nearest to one of ik_llama.cpp's, for files that llama.cpp is to run.

"Nearest" weighs size against error. A bit per weight is worth a factor of four in squared error, so the distance of two
types is the difference of their bits per weight plus the logarithm to base four of the ratio of their errors; a type
that another of the same size beats is not taken (q3_K: iq3_s; iq4_nl: q4_K). The errors are those of this package's
encoders on the rows of its golden tests; a test computes the table again. Where nothing of llama.cpp's is good without
importances at that size, the second choice is the nearest that needs none.

Types for models that were trained with three values go to such types, whose values are the same.
"""

from __future__ import annotations

from gguftool.format.quanttypes import QuantType, type_by_name
from gguftool.recipe.fallback import fitting_type
from gguftool.recipe.filetypes import FILE_TYPES, FileType

#: First choice, then those for rows that it does not fill or tensors without the importances that it needs. In brackets
#: bits per weight and relative weighted error in thousandths, of the type and of its first choice.
NEAREST: dict[str, tuple[str, ...]] = {
    "iq1_kt": ("iq1_m", "q2_K"),  # (1.76: 97) (1.75: 165); iq2_xxs (2.06: 110) is as near, and larger
    "iq2_kt": ("iq2_xs", "q2_K"),  # (2.13: 58) (2.31: 75); iq2_xxs (2.06: 110) has twice the error
    "iq2_ks": ("iq2_xxs", "q2_K"),  # (2.19: 97) (2.06: 110)
    "iq2_k": ("iq2_xs", "q2_K"),  # (2.38: 69) (2.31: 75)
    "iq2_kl": ("q2_K",),  # (2.69: 43) (2.62: 61)
    "iq3_kt": ("iq3_xxs", "iq3_s"),  # (3.13: 19) (3.06: 25)
    "iq3_ks": ("iq3_xxs", "iq3_s"),  # (3.19: 24) (3.06: 25)
    "iq3_k": ("iq3_s",),  # (3.44: 16) (3.44: 17)
    "iq4_kss": ("iq4_xs",),  # (4.01: 7.6) (4.25: 6.5)
    "iq4_kt": ("iq4_xs",),  # (4.01: 5.3) (4.25: 6.5)
    "iq4_ks": ("iq4_xs",),  # (4.26: 5.8) (4.25: 6.5)
    "iq4_k": ("q4_K",),  # (4.5: 3.5) (4.5: 5.3)
    "iq5_ks": ("q5_K",),  # (5.26: 1.4) (5.5: 1.3)
    "iq5_k": ("q5_K",),  # (5.5: 0.9) (5.5: 1.3)
    "q6_0": ("q6_K", "q8_0"),  # (6.5: 0.6) (6.56: 0.4); q8_0 for rows of whole 32s
    "iq6_k": ("q6_K",),  # (6.62: 0.2) (6.56: 0.4)
    "q8_KV": ("q8_0",),  # (8.02: 0.2) (8.5: 0.05)
    "iq1_bn": ("tq1_0", "q2_0"),  # three values; q2_0 for rows of whole 64s
    "iq2_bn": ("tq2_0", "q2_0"),
    "i2_s": ("tq2_0", "q2_0"),
    "q8_K": ("q8_0",),  # the plain form of q8_k_r8 and q8_k_r16
}


def is_read(t: QuantType) -> bool:
    """Whether llama.cpp reads files with this type."""
    return t.runtime in ("both", "mainline")


def nearest_mainline(wished: QuantType, n_cols: int, has_importance: bool) -> tuple[QuantType, QuantType]:
    """(the type to take, the type it would be if it filled rows of ``n_cols`` elements): equal unless it does not.

    ``wished`` may be any type but an unknown one; what llama.cpp reads already stands for itself, interleaved rows for
    their plain type. ``has_importance``: the tensor has importances of its own.
    """
    if wished.unpacked is not None:
        wished = type_by_name(wished.unpacked)
    names = NEAREST.get(wished.name, (wished.name,))
    choices = [t for t in map(type_by_name, names) if has_importance or len(names) == 1 or not t.needs_imatrix]
    fitting = next((t for t in choices if n_cols % t.block_size == 0), None)
    return (fitting, fitting) if fitting else (fitting_type(choices[0], n_cols), choices[0])


def mainline_number(file_type: FileType, has_imatrix: bool, stored: object = None) -> int | None:
    """The ``general.file_type`` that llama.cpp has for a file of that TYPE made for it.

    COPY keeps what the source has ``stored``, in llama.cpp's numbers; None where that is nothing.
    """
    if file_type.is_copy:
        if not isinstance(stored, int) or isinstance(stored, bool):
            return None
        found = next((t for t in FILE_TYPES if t.number == stored & ~_GUESSED and t.family == "ik"), None)
        return stored & ~_GUESSED if found is None else mainline_number(found, has_imatrix)
    if file_type.family != "ik":  # the number of Q1_0_G128 means another type there
        return next(t.number for t in FILE_TYPES if t.name == file_type.mixture)
    assert file_type.base is not None
    base, _ = nearest_mainline(file_type.base, 256, has_imatrix)
    name = "IQ3_M" if file_type.name == "IQ3_KL" else _PLAIN.get(base.name, base.name.upper())
    return next(t.number for t in FILE_TYPES if t.name == name)


_GUESSED = 1024
#: TYPEs that begin with a block type and are named otherwise.
_PLAIN = {"q4_K": "Q4_K_S", "q5_K": "Q5_K_S"}
