"""Damaged importance matrices through every command: an error of ours and no file, or a file that opens."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_imatrix import F32, VECTORS, as_dat, floats, imatrix_gguf

import gguftool
from gguftool.errors import GGUFToolError
from gguftool.imatrix.file import open_imatrix
from gguftool.verbs.imatrix_coverage import imatrix_coverage
from gguftool.verbs.imatrix_diff import imatrix_difference
from gguftool.verbs.imatrix_show import show_imatrix

_SIGNED = ("blk.0.attn_q.weight.in_sum", [4], F32, floats([1, -1, 1, -1]))
_SEEDS = (imatrix_gguf(VECTORS, extra=[_SIGNED]), as_dat(VECTORS, 4),
          as_dat([*VECTORS, ("blk.1.ffn_gate_inp.weight", (1, 1, 1, 1), (4,)),
                  ("blk.1.ffn_up_exps.weight", VECTORS[3][1], VECTORS[3][2])], 4))  # fmt: skip
_EDITS = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.sampled_from([0, 1, 4, 8]), st.binary(max_size=8)), min_size=1, max_size=3
)


@settings(max_examples=250, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(_SEEDS), _EDITS, st.sampled_from(["gguf", "dat"]),
    st.sampled_from(["convert", "merge", "repair", "mend", "look"]),
)  # fmt: skip
def test_mutations_end_in_our_errors_or_in_whole_files(
    tmp_path_factory: pytest.TempPathFactory, seed: bytes, edits: list[tuple[int, int, bytes]], form: str, job: str
) -> None:
    folder = tmp_path_factory.mktemp("h")
    raw = bytearray(seed)
    for at, drop, put in edits:
        raw[at % (len(raw) + 1) : at % (len(raw) + 1) + drop] = put
    (folder / "bad").write_bytes(bytes(raw))
    (folder / "good").write_bytes(seed)
    out = folder / f"out.{form}"
    try:
        _do(job, folder / "bad", folder / "good", out)
    except GGUFToolError:
        assert sorted(path.name for path in folder.iterdir()) == ["bad", "good"]
        return
    if job == "look":
        return
    with open_imatrix(out) as found:
        for name in found.names:
            assert not math.isnan(found.mean_squares(name).sum())


def _do(job: str, bad: Path, good: Path, out: Path) -> None:
    match job:
        case "convert":
            gguftool.convert_imatrix(bad, out)
        case "merge":
            gguftool.merge_imatrices([good, bad], out)
        case "repair":
            gguftool.repair_imatrix(bad, out, missing="neighbour")
        case "mend":
            gguftool.repair_imatrix(bad, out, missing="mean,ones", bad_values="missing", min_tokens=3)
        case "look":
            imatrix_coverage(bad, min_tokens=2)
            show_imatrix(bad)
            imatrix_difference(good, bad)
