"""``copy --unpack``: interleaved rows become plain ones, nothing else changes, and what cannot be unpacked says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support_models import F16, F32, keys, shapes, u32

import gguftool
from gguftool.codecs.unpack import unpack_rows
from gguftool.errors import PlanError, UsageError
from gguftool.format.quanttypes import type_by_name
from gguftool.format.reader import open_model
from gguftool.format.writer import write_gguf
from gguftool.plan.moves import Plan
from gguftool.run import tasks

#: What each matrix of a layer is stored as.
TYPES = {
    "attn_q": "iq4_k_r4", "attn_k": "iq5_k_r4", "attn_v": "iq5_ks_r4", "attn_output": "iq4_ks_r4",
    "ffn_gate_exps": "iq2_k_r4", "ffn_up_exps": "iq3_k_r4", "ffn_down_exps": "iq4_ks_r4",
}  # fmt: skip


def type_of(name: str, more: dict[str, str]) -> str:
    return more.get(name, TYPES.get(name.split(".")[-2], "f16"))


def write_woven(path: Path, number: int = 340, **more: str) -> Path:
    """A model of two layers and three experts, its matrices random bytes of interleaved types."""
    rng, tensors = np.random.default_rng(1), []
    for name, shape in shapes(2, 256, 512, 12, 3).items():
        kind = (
            F32 if len(shape) == 1 else type_by_name(type_of(name, {k.replace("__", "."): v for k, v in more.items()}))
        )
        if kind in (F16, F32):
            data = rng.standard_normal(shape).astype(np.float16 if kind is F16 else np.float32).tobytes()
        else:
            data = rng.integers(0, 256, kind.nbytes(shape), dtype=np.uint8).tobytes()
        tensors.append((name, data, shape, kind))
    write_gguf(path, keys(2, 256, 512, **{"general.file_type": u32(number)}), tensors)
    return path


def check_unpacked(source: Path, made: Path, pairs: dict[str, str]) -> None:
    """Every tensor of ``made`` holds the rows of the one it comes from (``pairs``: new name to old), as plain types."""
    with open_model(source) as old, open_model(made) as new:
        assert [t.name for t in new.tensors] == list(pairs)
        for tensor in new.tensors:
            was = old.tensor(pairs[tensor.name])
            data, n_cols = np.frombuffer(old.read(was), np.uint8), was.shape[-1]
            if was.type.rows_interleaved > 1:
                assert tensor.type.name == was.type.unpacked
                data = unpack_rows(data.reshape(-1, was.type.row_nbytes(n_cols)), was.type, n_cols)
            else:
                assert tensor.type == was.type
            assert new.read(tensor) == data.tobytes(), tensor.name


def test_the_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_woven(tmp_path / "m.gguf")
    with open_model(path) as model:
        pairs = {t.name: t.name for t in model.tensors}
    result = gguftool.copy(path, tmp_path / "c.gguf", unpack=True)
    check_unpacked(path, tmp_path / "c.gguf", pairs)
    assert not result.warnings
    assert {row.type for row in result.rows} == {"f16", "f32", *(t.removesuffix("_r4") for t in TYPES.values())}
    with open_model(path) as old, open_model(tmp_path / "c.gguf") as new:
        assert new.metadata["general.file_type"] == 140
        assert {k: v for k, v in old.metadata.items() if v != new.metadata[k]} == {"general.file_type": 340}
    whole = (tmp_path / "c.gguf").read_bytes()
    monkeypatch.setattr(tasks, "TASK_ELEMENTS", 5 * 256)  # tasks of one group
    gguftool.copy(path, tmp_path / "d.gguf", unpack=True, threads=3)
    assert (tmp_path / "d.gguf").read_bytes() == whole
    gguftool.quantize(path, tmp_path / "e.gguf", "copy", unpack=True, max_buffer_size=1, threads=2)
    check_unpacked(
        path, tmp_path / "e.gguf", dict(sorted(pairs.items(), key=lambda p: _place(tmp_path / "e.gguf", p[0])))
    )


def _place(path: Path, name: str) -> int:
    with open_model(path) as model:
        return [t.name for t in model.tensors].index(name)


def test_both_forms_decode_to_the_same(tmp_path: Path) -> None:
    """Random scales are Inf or NaN in some rows."""
    path = write_woven(tmp_path / "m.gguf")
    gguftool.copy(path, tmp_path / "c.gguf", unpack=True)
    woven, plain = gguftool.verify(path), gguftool.verify(tmp_path / "c.gguf")
    assert plain.problems and tuple(line.replace("_r4", "") for line in woven.problems) == plain.problems
    assert woven.undecoded == plain.undecoded == ()


def test_layers_may_go_too(tmp_path: Path) -> None:
    path = write_woven(tmp_path / "m.gguf")
    gguftool.copy(path, tmp_path / "c.gguf", prune_layers=[0], unpack=True)
    with open_model(path) as model:
        names = [t.name for t in model.tensors if not t.name.startswith("blk.0.")]
    check_unpacked(path, tmp_path / "c.gguf", {name.replace("blk.1.", "blk.0."): name for name in names})


def test_without_the_switch_nothing_changes(tmp_path: Path) -> None:
    path = write_woven(tmp_path / "m.gguf")
    gguftool.copy(path, tmp_path / "c.gguf")
    assert (tmp_path / "c.gguf").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("number", "after"), [(339, 139), (345, 145), (350, 150), (341 + 1024, 141), (7, 7), (348, 348)]
)
def test_file_types(tmp_path: Path, number: int, after: int) -> None:
    path = write_woven(tmp_path / "m.gguf", number)
    gguftool.copy(path, tmp_path / "c.gguf", unpack=True)
    with open_model(tmp_path / "c.gguf") as model:
        assert model.metadata["general.file_type"] == after
    gguftool.copy(path, tmp_path / "d.gguf", unpack=True, override_kv="general.file_type=int:345")
    with open_model(tmp_path / "d.gguf") as model:
        assert model.metadata["general.file_type"] == 345


def test_plans_are_data(tmp_path: Path) -> None:
    with open_model(write_woven(tmp_path / "m.gguf")) as model:
        plan = Plan.of(model).unpack()
        assert plan.hash != Plan.of(model).hash
        assert Plan.from_json(plan.to_json()) == plan
        moves = {m.name: m for m in plan.moves}
        assert moves["blk.0.attn_q.weight"].type.name == "iq4_k" and moves["blk.0.attn_q.weight"].copied
        assert not moves["blk.0.attn_q.weight"].whole and moves["output.weight"].whole


def test_what_cannot_be_unpacked(tmp_path: Path) -> None:
    path = write_woven(tmp_path / "m.gguf", blk__0__attn_q__weight="q4_k_r4", blk__1__attn_q__weight="q4_k_r4")
    gguftool.copy(path, tmp_path / "copied.gguf")
    assert (tmp_path / "copied.gguf").read_bytes() == path.read_bytes()
    with pytest.raises(PlanError) as caught:
        gguftool.copy(path, tmp_path / "c.gguf", unpack=True)
    assert caught.value.problems == (
        "cannot unpack q4_k_r4: its rows are interleaved in a way that only ik_llama.cpp undoes: "
        "it can be copied, nothing else (blk.0.attn_q.weight and 1 more)",
    )
    assert not (tmp_path / "c.gguf").exists()


def test_converting_says_what_to_do(tmp_path: Path) -> None:
    path = write_woven(tmp_path / "m.gguf", blk__0__attn_q__weight="q4_k_r4")
    with pytest.raises(PlanError) as caught:
        gguftool.quantize(path, tmp_path / "c.gguf", "q8_0", allow_requantize=True)
    said = "\n".join(caught.value.problems)
    assert "cannot decode iq5_k_r4: its rows are interleaved: `gguftool copy --unpack` makes it iq5_k" in said
    assert "cannot decode q4_k_r4: its rows are interleaved in a way that only ik_llama.cpp undoes" in said
    with pytest.raises(UsageError, match="--unpack changes no value: give it with TYPE COPY"):
        gguftool.quantize(path, tmp_path / "c.gguf", "q8_0", unpack=True)


def test_nothing_to_unpack(tmp_path: Path) -> None:
    path = write_woven(tmp_path / "m.gguf")
    gguftool.copy(path, tmp_path / "c.gguf", unpack=True)
    result = gguftool.copy(tmp_path / "c.gguf", tmp_path / "d.gguf", unpack=True)
    assert result.warnings == ("--unpack changes nothing: no tensor has interleaved rows",)
    assert (tmp_path / "c.gguf").read_bytes() == (tmp_path / "d.gguf").read_bytes()


def call(*words: object, status: int = 0) -> str:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", "from gguftool.cli.main import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_the_command_line(tmp_path: Path) -> None:
    path, out = write_woven(tmp_path / "m.gguf"), tmp_path / "c.gguf"
    said = call("copy", path, out, "--unpack", "--dry-run")
    assert "type = iq4_k_r4, size =" in said and "unpacked to iq4_k" in said
    assert not out.exists()
    call("copy", path, out, "--unpack")
    call("quantize", "--unpack", path, tmp_path / "d.gguf", "COPY")
    with open_model(out) as one, open_model(tmp_path / "d.gguf") as other:
        assert all(one.read(t) == other.read(other.tensor(t.name)) for t in one.tensors)
    assert "TYPE COPY" in call("quantize", "--unpack", path, tmp_path / "e.gguf", "Q8_0", status=2)
