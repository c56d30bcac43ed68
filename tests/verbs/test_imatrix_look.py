"""What a file is, what it covers, and how two of them differ, as library functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support_gguf import gguf, string
from support_imatrix import F32, VECTORS, as_dat, floats, imatrix_gguf

from gguftool.errors import FormatError, UsageError
from gguftool.verbs.imatrix_coverage import imatrix_coverage
from gguftool.verbs.imatrix_diff import imatrix_difference, most_moved
from gguftool.verbs.imatrix_show import show_imatrix, show_tensor

DOWN = "blk.1.ffn_down_exps.weight"


def put(folder: Path, name: str, raw: bytes) -> Path:
    (folder / name).write_bytes(raw)
    return folder / name


def model_file(folder: Path, tensors: Sequence[tuple[str, list[int]]]) -> Path:
    kv = [("general.architecture", string("llama"))]
    return put(folder, "model.gguf", gguf(kv, [(n, ne, F32, bytes(4 * math.prod(ne))) for n, ne in tensors]))


def test_coverage_names_what_few_tokens_reached(tmp_path: Path) -> None:
    source = put(tmp_path, "a.gguf", imatrix_gguf(VECTORS))
    found = imatrix_coverage(source)
    assert [(s.name, s.never, s.below) for s in found.sparse] == [(DOWN, (1,), ())] and not found.complete
    found = imatrix_coverage(source, min_tokens=4)
    assert [(s.name, s.never, s.below) for s in found.sparse] == [
        (DOWN, (1,), (2,)), ("blk.2.ffn_down_exps.weight", (), (1, 2))
    ]  # fmt: skip
    assert [layer.layer for layer in found.layers] == [1, 2] and len(found.tensors) == 6
    with pytest.raises(UsageError):
        imatrix_coverage(source, min_tokens=0)


def test_coverage_of_the_older_form(tmp_path: Path) -> None:
    source = put(tmp_path, "a.dat", as_dat([entry for entry in VECTORS if "blk.2" not in entry[0]], 4))
    assert imatrix_coverage(source).complete  # nothing says that there are experts
    found = imatrix_coverage(source, experts=3, min_tokens=100)
    assert [(s.name, s.never, s.below) for s in found.sparse] == [(DOWN, (1,), ())]
    assert any("not by how many tokens" in note for note in found.notes)
    assert imatrix_coverage(source, experts=3, keep_fillers=True).complete


def test_coverage_of_a_model(tmp_path: Path) -> None:
    shapes = {
        "token_embd": [4, 9], "output_norm": [4], "blk.0.attn_q": [4, 4], "blk.0.attn_k": [8, 4],
        "blk.0.ffn_gate": [4, 2], "blk.0.ffn_gate_inp": [4, 2], "blk.0.ffn_up": [4, 2],
        "blk.0.ffn_down_exps": [2, 3, 2],
    }  # fmt: skip
    model = model_file(tmp_path, [(f"{name}.weight", ne) for name, ne in shapes.items()])
    entries = [("blk.0.attn_q.weight", [1] * 4, [1]), ("blk.0.attn_k.weight", [1] * 4, [1]),
               ("blk.0.ffn_up.weight", [1] * 4, [1]), ("blk.0.ffn_down_exps.weight", [1] * 4, [1]),
               ("blk.9.attn_q.weight", [1], [1])]  # fmt: skip
    found = imatrix_coverage(put(tmp_path, "a.gguf", imatrix_gguf(entries)), model=model)
    held = found.against
    assert held is not None and held.n_weights == 7 and not found.complete
    assert [weight.name for weight in held.missing] == ["blk.0.ffn_gate.weight"]
    assert held.alias == {"blk.0.ffn_gate.weight": "blk.0.ffn_up.weight"}
    assert {weight.name: weight.why_absent for weight in held.not_collected} == {
        "token_embd.weight": "rows are looked up in it, and the output is never recorded under this name",
        "blk.0.ffn_gate_inp.weight": "it is never quantized",
    }
    assert held.disagreeing == (("blk.0.attn_k.weight", (1, 4), (1, 8)),)
    assert held.spare == ("blk.9.attn_q.weight",)


def test_coverage_of_real_models(shared: Path) -> None:
    for model in ("llama-11m", "moe-8m"):
        for form in ("gguf", "dat"):
            found = imatrix_coverage(
                shared / "imatrix" / f"prose-{model}.imatrix.{form}",
                model=shared / "models" / f"prose-{model}-f16.gguf",
            )
            assert found.complete and found.against is not None and found.against.spare == ()
            assert {w.name for w in found.against.not_collected} == {"token_embd.weight", "output.weight"}
            assert bool(found.layers) is (model == "moe-8m")


def test_show(tmp_path: Path) -> None:
    extra = [("blk.0.attn_q.weight.in_sum", [4], F32, floats([1, -1, 2, 0]))]
    found = show_imatrix(put(tmp_path, "a.gguf", imatrix_gguf(VECTORS, extra=extra)))
    assert (found.n_entries, found.n_values, found.tokens, found.datasets) == (6, 40, 8, ("text.txt",))
    kinds = [(k.kind, k.tensors, k.layers, k.n_mat, k.n_cols, k.n_reached, k.tokens, k.signed) for k in found.kinds]
    assert kinds == [
        ("attn_q", 2, (1, 3), 1, 4, 2, 8, False), ("attn_q", 1, (0,), 1, 4, 1, 8, True),
        ("ffn_down_exps", 2, (1, 2), 3, 4, 5, 6, False), ("output", 1, (), 1, 4, 1, 8, False),
    ]  # fmt: skip


def test_show_a_tensor(tmp_path: Path) -> None:
    extra = [("blk.0.attn_q.weight.in_sum", [4], F32, floats([1, -1, 2, 0]))]
    source = put(tmp_path, "a.gguf", imatrix_gguf(VECTORS, extra=extra))
    found = show_tensor(source, "blk.0.attn_q", top=2)
    assert found.name == "blk.0.attn_q.weight" and found.counts == (8,)
    first = found.channels[0]
    assert (first.channel, first.mean_square, first.mean) == (3, 4.0, 0.0) and first.share_pct == 40
    assert first.times_median == 4 / 2.5 and found.channels[1].channel == 2 and len(found.channels) == 2
    found = show_tensor(source, DOWN, top=3)
    assert [(c.matrix, c.channel, c.mean_square) for c in found.channels] == [(2, 3, 9), (0, 3, 4), (0, 2, 3)]
    assert show_tensor(source, DOWN, matrix=1).channels == ()
    assert {c.matrix for c in show_tensor(source, DOWN, matrix=2).channels} == {2}
    with pytest.raises(UsageError, match=r"no entry 'blk\.0\.attn_k': did you mean blk\.0\.attn_q\.weight"):
        show_tensor(source, "blk.0.attn_k")
    with pytest.raises(UsageError, match="the matrices 0 to 2, not 3"):
        show_tensor(source, DOWN, matrix=3)
    with pytest.raises(UsageError):
        show_tensor(source, DOWN, top=0)


def test_difference_says_what_does_not_go_together(tmp_path: Path) -> None:
    a = put(tmp_path, "a.gguf", imatrix_gguf(VECTORS))
    b = put(tmp_path, "b.gguf", imatrix_gguf([("blk.0.attn_q.weight", (1, 2, 3), (1,)), *VECTORS[1:3]]))
    found = imatrix_difference(a, b)
    assert found.warnings == ("blk.0.attn_q.weight: 1 x 4 values in a.gguf, 1 x 3 in b.gguf: not compared",)
    assert sorted(row.name for row in found.tensors if row.only_in == "a") == sorted(e[0] for e in VECTORS[3:])
    found = imatrix_difference(a, b, tensors=r"blk\.[13]\.attn")
    assert [row.name for row in found.tensors] == ["blk.1.attn_q.weight", "blk.3.attn_q.weight"]
    with pytest.raises(UsageError):
        imatrix_difference(a, b, tensors="(")


def test_what_moved_most(tmp_path: Path) -> None:
    names = [f"blk.{i}.attn_q.weight" for i in range(4)]
    a = put(tmp_path, "a.gguf", imatrix_gguf([(name, (1, 2, 4), (1,)) for name in names]))
    b = put(tmp_path, "b.gguf", imatrix_gguf([(n, v, (1,)) for n, v in zip(
        names, [(1, 2, 4), (4, 2, 1), (1, 2, 9), (5, 5, 5)], strict=True)]))  # fmt: skip
    rows = imatrix_difference(a, b).tensors
    assert [row.layer for row in most_moved(rows, "tv")] == [1, 3, 2, 0]
    assert [row.layer for row in most_moved(rows, "cosine")] == [1, 3, 2, 0]
    assert [row.layer for row in most_moved(rows, "rank")] == [1, 0, 2, 3]
    assert np.isnan(most_moved(rows, "rank")[-1].rank_corr)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    bad = put(tmp_path, "a.gguf", b"GGUF\3\0\0\0")
    for look in (imatrix_coverage, show_imatrix, lambda p: show_tensor(p, "x"), lambda p: imatrix_difference(p, p)):
        with pytest.raises(FormatError):
            look(bad)
