"""What a tensor gets when the blocks of the wished type do not fill its rows.

llama.cpp's substitutes for its own types, ik_llama.cpp's for its own, and for every type under an ik TYPE name. A
substitute that does not fit either, or a type that has none, ends in f16, as in llama.cpp's newer library.
"""

from __future__ import annotations

from gguftool.format.quanttypes import QuantType, type_by_name

_MAINLINE = {
    **dict.fromkeys(["iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"], "iq4_nl"),
    **dict.fromkeys(["q2_0", "q2_K", "q3_K", "tq1_0", "tq2_0"], "q4_0"),
    "q4_K": "q5_0",
    "q5_K": "q5_1",
    "q6_K": "q8_0",
}
_IK = {
    **dict.fromkeys(
        ["iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs", "q2_K", "q3_K"], "iq4_nl"
    ),
    **dict.fromkeys(
        ["iq2_k", "iq2_ks", "iq2_kl", "iq3_k", "iq3_ks", "iq4_kss", "iq4_ks", "iq1_kt", "iq2_kt", "iq3_kt", "iq4_kt"],
        "iq4_nl",
    ),
    **dict.fromkeys(["iq4_k", "iq5_ks", "q4_K"], "q5_0"),
    **dict.fromkeys(["iq5_k", "q5_K"], "q6_0"),
    **dict.fromkeys(["iq6_k", "q6_K"], "q8_0"),
}


def fitting_type(wished: QuantType, n_cols: int, family: str = "mainline") -> QuantType:
    """``wished`` if its blocks fill a row of ``n_cols`` elements, else the substitute, in the end f16.

    ``family`` is that of the TYPE: under an ik name ik_llama.cpp's substitutes hold for all types.
    """
    if n_cols % wished.block_size == 0:
        return wished
    own = wished.runtime == "ik" or family == "ik"
    substitute = (_IK.get(wished.name) if own else None) or _MAINLINE.get(wished.name)
    if substitute is not None:
        found = type_by_name(substitute)
        if n_cols % found.block_size == 0:
            return found
    return type_by_name("f16")
