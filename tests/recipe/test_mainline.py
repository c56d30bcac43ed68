"""Which type of llama.cpp stands for one of ik_llama.cpp's: the table against the errors that it is made from."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import pytest
from support_golden import SETS, golden_inputs

from gguftool.codecs import dispatch
from gguftool.format.quanttypes import TYPES, QuantType, type_by_name
from gguftool.recipe.filetypes import FILE_TYPES, file_type_by_name
from gguftool.recipe.mainline import NEAREST, is_read, mainline_number, nearest_mainline

#: For models trained with few values, or made by rounding to them; no substitutes for a search.
SPECIAL = ("tq1_0", "tq2_0", "q1_0", "q2_0", "mxfp4", "nvfp4", "iq1_bn", "iq2_bn")
MADE = [t for t in TYPES if t.is_target and t.kind == "quant" and t.name not in SPECIAL]
FORKS = [t.name for t in MADE if t.runtime == "ik"]


@functools.cache
def error(shared: Path, t: QuantType, with_importance: bool) -> float:
    """The relative weighted error, geometric mean over the golden sets."""
    inputs = golden_inputs(shared)
    weights = inputs["imatrix"].astype(np.float32) if with_importance else None
    logs = []
    for name in SETS:
        rows = inputs[name].astype(np.float32)
        values = dispatch.decode(dispatch.encode(rows, t, weights), t, rows.shape[1])
        w = 1 if weights is None else weights
        logs.append(math.log((w * (values - rows) ** 2).sum() / (w * rows**2).sum()))
    return math.exp(sum(logs) / len(logs))


def size(t: QuantType) -> float:
    return 8 * t.row_nbytes(4096) / 4096


@pytest.mark.parametrize("has_importance", [True, False])
@pytest.mark.parametrize("name", FORKS)
def test_the_table_is_the_nearest(shared: Path, name: str, has_importance: bool) -> None:
    def distance(t: QuantType) -> float:
        ratio = error(shared, t, has_importance) / error(shared, wished, has_importance)
        return abs(size(t) - size(wished)) + abs(math.log(ratio, 4))

    def beaten(t: QuantType) -> bool:
        mine = error(shared, t, has_importance)
        return any(size(u) <= size(t) and error(shared, u, has_importance) < mine for u in usable)

    wished = type_by_name(name)
    found, full = nearest_mainline(wished, 4096, has_importance)
    assert found == full and is_read(found)
    usable = [t for t in MADE if is_read(t) and (has_importance or not t.needs_imatrix)]
    best = min(distance(t) for t in usable if not beaten(t))
    assert found in usable and not beaten(found)
    assert distance(found) <= best + 0.02


def test_every_type_of_the_fork_has_one() -> None:
    for t in TYPES:
        if t.kind == "quant":
            for has_importance in (True, False):
                found, _ = nearest_mainline(t, 4096, has_importance)
                assert is_read(found), t.name
    assert not [name for name in NEAREST if is_read(type_by_name(name)) and name != "q8_K"]


@pytest.mark.parametrize(
    ("name", "n_cols", "found", "full"),
    [
        ("iq4_kss", 320, "iq4_nl", "iq4_xs"),
        ("iq4_k", 320, "q5_0", "q4_K"),
        ("iq5_k", 320, "q5_1", "q5_K"),
        ("iq6_k", 320, "q8_0", "q6_K"),
        ("iq2_k", 320, "iq4_nl", "iq2_xs"),
        ("q6_0", 320, "q8_0", "q8_0"),
        ("iq2_bn", 320, "q2_0", "q2_0"),
        ("iq1_bn", 512, "tq1_0", "tq1_0"),
        ("iq4_kss", 20, "f16", "iq4_xs"),
        ("q4_k_r4", 256, "q4_K", "q4_K"),
        ("bf16_r16", 20, "bf16", "bf16"),
        ("q8_k_r8", 256, "q8_0", "q8_0"),
        ("iq4_ks_r4", 256, "iq4_xs", "iq4_xs"),
        ("q5_K", 320, "q5_1", "q5_K"),
    ],
)
def test_rows_that_are_too_short(name: str, n_cols: int, found: str, full: str) -> None:
    assert [t.name for t in nearest_mainline(type_by_name(name), n_cols, True)] == [found, full]


def test_file_types_are_llama_cpps() -> None:
    for file_type in FILE_TYPES:
        if file_type.is_copy:
            continue
        for has_imatrix in (True, False):
            number = mainline_number(file_type, has_imatrix)
            assert number is not None and number < 42, file_type.name
            if file_type.family == "mainline" and file_type.name != "Q1_0_G128":
                assert number == file_type.number
    copy = file_type_by_name("COPY")
    stored = [148, 148 + 1024, 15, 1024 + 7, 41, None, "x", True]
    assert [mainline_number(copy, False, n) for n in stored] == [30, 30, 15, 7, 41, None, None, None]
    assert [mainline_number(file_type_by_name("IQ3_KS"), im) for im in (True, False)] == [23, 26]
    others = {"Q1_0_G128": 40, "IQ3_KL": 27, "IQ3_K": 26, "IQ4_K": 14, "IQ5_K": 16, "Q8_KV": 7, "IQ2_BN": 37}
    assert {word: mainline_number(file_type_by_name(word), True) for word in others} == others
