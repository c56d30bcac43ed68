"""Golden vectors of the reference, and the error of our blocks as a ratio to the reference's.

``SETS`` are the three inputs that error limits speak of; ``edge`` is for robustness. With an imatrix the error is
``rel_wmse``, without one ``rel_mse``, both as shared/golden/ggml/README.md defines them.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from support_libggml import dequantize, libggml, quantize

from gguftool.codecs import dispatch
from gguftool.format.quanttypes import type_by_name

SETS = ("gauss", "student", "chanscale")
FLOATS = ("f32", "f16", "bf16")
LEGACY = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
KQUANTS = ("q2_K", "q3_K", "q4_K", "q5_K", "q6_K")
IQ4 = ("iq4_nl", "iq4_xs")
GRIDS = ("iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s")
TERNARY = ("tq1_0", "tq2_0", "q1_0", "q2_0")
FP4 = ("mxfp4", "nvfp4")
#: The types of ik_llama.cpp that can be decoded; their golden files lie in a folder of their own.
IK_K = ("iq2_k", "iq3_k", "iq4_k", "iq5_k", "iq6_k")
IK_KS = ("iq2_ks", "iq2_kl", "iq3_ks", "iq4_kss", "iq4_ks", "iq5_ks")
IK_KT = ("iq1_kt", "iq2_kt", "iq3_kt", "iq4_kt")
IK_PLAIN = ("q6_0", "q8_KV", "iq1_bn", "iq2_bn")
IK = (*IK_K, *IK_KS, *IK_KT, *IK_PLAIN)
IK_ENCODED = (*IK_K, *IK_KS, *IK_KT, "q6_0", "q8_KV")
BLOCKS = (*LEGACY, *KQUANTS, *IQ4, *GRIDS, *TERNARY, *FP4)

#: The reference refuses these without an imatrix, so there is nothing to compare with.
NEED_IMATRIX = ("iq2_xs", "iq2_xxs", "iq1_s")
#: The reference has no golden file of these.
NO_GOLDEN = ("q1_0", "q2_0")

#: Where a block holds its f16 scales and minima; iq1_m, whose scale is scattered, and the fp4 types are not here.
SCALE_OFFSETS = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,), "q2_K": (80, 82), "q3_K": (108,),
    "q4_K": (0, 2), "q5_K": (0, 2), "q6_K": (208,), "iq4_nl": (0,), "iq4_xs": (0,), "iq3_s": (0,), "iq3_xxs": (0,),
    "iq2_s": (0,), "iq2_xs": (0,), "iq2_xxs": (0,), "iq1_s": (0,), "tq1_0": (52,), "tq2_0": (64,), "q1_0": (0,),
    "q2_0": (0,), "iq2_k": (0,), "iq3_k": (0,), "iq4_k": (0,), "iq5_k": (0,), "iq6_k": (0,),
    "q6_0": (0,),
}  # fmt: skip

Array = npt.NDArray[Any]


@functools.cache
def golden_inputs(shared: Path) -> dict[str, Array]:
    """gauss, student, chanscale (8 x 1024), edge (8 x 512), imatrix (1024), edge_imatrix (512)."""
    with np.load(shared / "golden" / "ggml" / "inputs.npz") as file:
        return {name: file[name] for name in file.files}


@functools.cache
def golden_blocks(shared: Path, type_name: str) -> dict[str, Array]:
    """q_<set>_<im|noim> and dq_..., q_rand and dq_rand of a type, as the README beside them says.

    dq_ is always the default decode; iq6_k has dqpoly_ too.
    Where there is no such file libggml is asked, here and now (and there is no q_rand).
    """
    if type_name in NO_GOLDEN:
        return _blocks_of_libggml(shared, type_name)
    folder = "ik" if type_by_name(type_name).runtime == "ik" else "ggml"
    with np.load(shared / "golden" / folder / f"{type_name.upper()}.npz") as file:
        found = {name: file[name] for name in file.files if name != "meta_json"}
    if type_name == "iq6_k":  # dq_ is what the variant "poly" gives there, and everywhere else the default decode
        poly = {name.replace("dq_", "dqpoly_"): found[name] for name in found if name.startswith("dq_")}
        table = {name.replace("dqtable_", "dq_"): found[name] for name in found if name.startswith("dqtable_")}
        found = {name: found[name] for name in found if name.startswith("q_")} | poly | table
    return found


def _blocks_of_libggml(shared: Path, type_name: str) -> dict[str, Array]:
    lib, inputs, found = libggml(), golden_inputs(shared), {}
    for name in (*SETS, "edge"):
        for key, a in (("im", inputs["edge_imatrix" if name == "edge" else "imatrix"]), ("noim", None)):
            blocks = quantize(lib, type_name, inputs[name], a)
            found[f"q_{name}_{key}"] = blocks
            found[f"dq_{name}_{key}"] = dequantize(lib, type_name, blocks, inputs[name].shape[1])
    return found


@functools.cache
def golden_stats(shared: Path) -> dict[str, Any]:
    """stats.json: the reference's own error figures."""
    found: dict[str, Any] = json.loads((shared / "golden" / "ggml" / "stats.json").read_text())
    return found


def rel_wmse(x: Array, y: Array, a: Array) -> float:
    """sum a (x-y)^2 / sum a x^2, in float64."""
    x, y, a = np.float64(x), np.float64(y), np.float64(a)
    return float((a * (x - y) ** 2).sum() / (a * x**2).sum())


def rel_mse(x: Array, y: Array) -> float:
    """sum (x-y)^2 / sum x^2, in float64."""
    return rel_wmse(x, y, np.ones(np.shape(x)[-1]))


def golden_ratio(shared: Path, type_name: str, set_name: str, imatrix: bool, **options: str) -> float:
    """Our error over the reference's on one set; ``options`` are objective= and effort= of encode."""
    inputs = golden_inputs(shared)
    x, a = inputs[set_name], inputs["imatrix"]
    ours = dispatch.decode(
        dispatch.encode(x, type_name, a if imatrix else None, **options),  # type: ignore[arg-type]
        type_name,
        x.shape[1],
    )
    theirs = golden_blocks(shared, type_name)[f"dq_{set_name}_{'im' if imatrix else 'noim'}"]
    if imatrix:
        return rel_wmse(x, ours, a) / rel_wmse(x, theirs, a)
    return rel_mse(x, ours) / rel_mse(x, theirs)


def golden_ratios(shared: Path, type_name: str, imatrix: bool, **options: str) -> dict[str, float]:
    """The three sets' ratios and their ``mean``."""
    ratios = {name: golden_ratio(shared, type_name, name, imatrix, **options) for name in SETS}
    return ratios | {"mean": sum(ratios.values()) / len(ratios)}


def scale_values(blocks: Array, type_name: str) -> Array:
    """Every stored outer scale, float32 [scales of a block, blocks] or [1, rows]: they must all be finite."""
    header, size = type_by_name(type_name).row_header, type_by_name(type_name).block_bytes
    if header:
        kind = np.float16 if header == 2 else np.float32
        return np.ascontiguousarray(blocks[:, : 2 if header == 2 else 4]).view(kind).astype(np.float32).T
    flat = np.ascontiguousarray(blocks).reshape(-1, size)
    if type_name == "mxfp4":
        return np.where(flat[:, :1] == 255, np.inf, np.ldexp(np.float32(1), flat[:, :1].astype(int) - 128)).T
    if type_name == "nvfp4":
        return np.where(flat[:, :4] == 127, np.nan, flat[:, :4].astype(np.float32)).T
    if type_name == "iq1_m":
        words = flat[:, 48:56].copy().view(np.uint16)
        bits = (words >> 12 << (4 * np.arange(4, dtype=np.uint16))).sum(1).astype(np.uint16)
        return bits.view(np.float16).astype(np.float32)[None]
    return np.stack(
        [flat[:, o : o + 2].copy().view(np.float16)[:, 0].astype(np.float32) for o in SCALE_OFFSETS[type_name]]
    )


def set_scales(blocks: Array, type_name: str, halves: Array) -> None:
    """Gives every block of uint8 [blocks, bytes] these f16 scales (uint16), the same for all of a block's."""
    if type_name == "iq1_m":
        words = blocks[:, 48:56].copy().view(np.uint16) & 0xFFF
        nibbles = halves[:, None] >> (4 * np.arange(4, dtype=np.uint16)) & 15
        blocks[:, 48:56] = (words | nibbles.astype(np.uint16) << 12).view(np.uint8)
    for at in SCALE_OFFSETS.get(type_name, ()):
        blocks[:, at : at + 2] = halves[:, None].view(np.uint8)


def lcg(seed: int, n: int) -> Array:
    """n uniforms in [0, 1) of the generator that the specification's test vectors are made with."""
    state, out = seed, np.empty(n)
    for i in range(n):
        state = (1664525 * state + 1013904223) % 2**32
        out[i] = (state >> 8) / 2**24
    return out


@functools.cache
def vector_sets() -> dict[str, Array]:
    """Inputs A and B (8 x 1024) and the imatrix of ggml-types.json's test_vectors."""
    u = lcg(12345, 4 * 8 * 1024).reshape(8, 1024, 4)
    a = ((((u[..., 0] + u[..., 1]) + u[..., 2]) + u[..., 3] - 2) * 0.05).astype(np.float32)
    b = a.copy()
    b[0] = 0
    b[1, :32] = 0
    b[2] = 0.5
    b[3, ::2], b[3, 1::2] = np.float32(0.03), np.float32(-0.03)
    b[4] = -np.abs(b[4])
    b[5] *= np.float32(1e-6)
    b[6] *= np.float32(1e4)
    b[7] = np.rint(200 * b[7]).astype(np.float32) / 64
    v = lcg(777, 1024)
    return {"A": a, "B": b, "imatrix": (0.05 + 4 * v**4).astype(np.float32)}
