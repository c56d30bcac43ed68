"""``--compat mainline``: a recipe of ik_llama.cpp's types becomes a file that llama.cpp runs, and the price is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support_logits import logits_of
from support_models import F16, keys, shapes, text, u32, write_imatrix, write_model

import gguftool
from gguftool.errors import PlanError, UsageError
from gguftool.format.quanttypes import BY_ID, type_by_name, unknown_type
from gguftool.format.reader import open_model
from gguftool.format.writer import write_gguf
from gguftool.plan.mainline import replacements
from gguftool.plan.moves import Plan
from gguftool.recipe.decide import Recipe
from gguftool.recipe.filetypes import FILE_TYPES, file_type_by_name

NAMES = [t.name for t in FILE_TYPES if t.family == "ik"]


def types_of(path: Path) -> dict[str, str]:
    with open_model(path) as model:
        return {t.name: t.type.name for t in model.tensors}


def call(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    line = [sys.executable, "-c", "from gguftool.cli.main import main; main()", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.parametrize("name", ["prose-llama-11m", "prose-moe-8m"])
def test_llama_cpp_runs_every_mixture_of_the_fork(shared: Path, tmp_path: Path, name: str) -> None:
    source, imatrix = shared / "models" / f"{name}-f16.gguf", shared / "imatrix" / f"{name}.imatrix.gguf"
    paths = []
    for word in NAMES:
        result = gguftool.quantize(
            source, tmp_path / f"{word}.gguf", word, imatrix=imatrix, compat="mainline", effort="fast"
        )
        paths.append(result.path)
        with open_model(result.path) as model:
            assert not {t.type.name for t in model.tensors if t.type.runtime == "ik"}, word
            assert model.metadata["general.file_type"] < 42
        assert result.replaced and not any("ik_llama.cpp" in line for line in result.warnings)
        assert all(r.wished.runtime == "ik" and r.type.runtime != "ik" for r in result.replaced)
    logits = logits_of(paths)
    for path in paths:
        found = logits[path]
        assert isinstance(found, np.ndarray), f"{path.name}: {found}"
        assert np.isfinite(found).all() and found.std() > 0.1, path.name


def test_the_difference_is_that_of_two_files(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf")
    forks = gguftool.quantize(model, tmp_path / "ik.gguf", "IQ4_KSS", effort="fast")
    ours = gguftool.quantize(model, tmp_path / "main.gguf", "IQ4_KSS", effort="fast", compat="mainline")
    assert sum(r.nbytes_wished - r.nbytes for r in ours.replaced) == forks.nbytes - ours.nbytes
    wished = {row.name: row.type for row in forks.rows if BY_ID[type_by_name(row.type).id].runtime == "ik"}
    assert sum(r.n_tensors for r in ours.replaced) == len(wished)
    got = types_of(ours.path)
    assert {(wished[name], got[name]) for name in wished} == {(r.wished.name, r.type.name) for r in ours.replaced}
    assert all(got[row.name] == row.type for row in forks.rows if row.name not in wished)
    assert not forks.replaced
    assert {row.name: row.replaces for row in ours.rows if row.replaces} == wished
    with open_model(ours.path) as made:
        assert made.metadata["general.file_type"] == 30
        assert made.metadata["gguftool.recipe"] == ["IQ4_KSS", "--compat mainline"]


def test_plans_are_data(tmp_path: Path) -> None:
    with open_model(write_model(tmp_path / "m.gguf", n_layer=1)) as model:
        recipe = Recipe(file_type_by_name("IQ4_KSS"), mainline=True)
        plan = Plan.of(model).retype(recipe)
    assert Plan.from_json(plan.to_json()) == plan
    found = replacements(Plan.from_json(plan.to_json()))
    assert {(r.wished.name, r.type.name) for r in found} == {("iq4_kss", "iq4_xs")}
    forgotten = replace(plan, moves=tuple(replace(move, replaces=None, reason="") for move in plan.moves))
    assert forgotten.hash == plan.hash and not replacements(forgotten)


def test_tensors_without_importances_get_types_that_need_none(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", n_layer=1)
    found = {name: shape for name, shape in shapes(1, 256, 512, 64).items() if "attn_q" not in name}
    imatrix = write_imatrix(tmp_path / "i.gguf", found)
    rules = ["attn_q=iq3_ks", "attn_k=iq3_ks"]
    gguftool.quantize(model, tmp_path / "o.gguf", "IQ2_K", imatrix=imatrix, tensor_type=rules, compat="mainline")
    got = types_of(tmp_path / "o.gguf")
    assert (got["blk.0.attn_q.weight"], got["blk.0.attn_k.weight"]) == ("iq3_s", "iq3_xxs")
    assert (got["blk.0.ffn_up.weight"], got["token_embd.weight"]) == ("iq2_xs", "iq2_xs")
    result = gguftool.quantize(model, tmp_path / "n.gguf", "IQ2_K", compat="mainline")
    assert types_of(result.path)["blk.0.ffn_up.weight"] == "q2_K"
    assert {(r.wished.name, r.type.name) for r in result.replaced} == {("iq2_k", "q2_K"), ("iq3_k", "iq3_s")}


def test_rows_that_no_block_of_256_fills(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", n_layer=1, width=320, ff=512)
    for word, wide in {"IQ5_K": "q5_1", "IQ4_KSS": "iq4_nl", "Q6_0": "q8_0", "IQ6_K": "q8_0", "IQ2_BN": "q2_0"}.items():
        result = gguftool.quantize(model, tmp_path / f"{word}.gguf", word, pure=True, compat="mainline", effort="fast")
        got = types_of(result.path)
        assert got["blk.0.ffn_up.weight"] == wide
        (row,) = [row for row in result.rows if row.name == "blk.0.ffn_up.weight"]
        assert row.wanted == {"IQ5_K": "q5_K", "IQ4_KSS": "iq4_kss", "IQ6_K": "iq6_k"}.get(word, "")
        assert not [t for t in got.values() if type_by_name(t).runtime == "ik"], word
    with pytest.raises(PlanError, match="--no-fallback forbids"):
        gguftool.quantize(model, tmp_path / "o.gguf", "IQ5_K", pure=True, compat="mainline", no_fallback=True)


def forks_file(tmp_path: Path) -> Path:
    model = write_model(tmp_path / "m.gguf", n_layer=1)
    return gguftool.quantize(model, tmp_path / "ik.gguf", "IQ4_KSS", effort="fast").path


def test_a_file_of_the_fork_becomes_one_of_llama_cpps_if_that_is_allowed(tmp_path: Path) -> None:
    path = forks_file(tmp_path)
    for word in ("COPY", "IQ4_KSS"):
        with pytest.raises(PlanError) as caught:
            gguftool.quantize(path, tmp_path / "o.gguf", word, compat="mainline")
        (line,) = [p for p in caught.value.problems if "iq4_kss" in p]
        assert "already quantized (iq4_kss, which llama.cpp does not read), and iq4_xs would lose more" in line
        assert "--allow-requantize" in line and not (tmp_path / "o.gguf").exists()
        made = gguftool.quantize(path, tmp_path / f"{word}.gguf", word, compat="mainline", allow_requantize=True).path
        with open_model(path) as old, open_model(made) as new:
            assert not [t.name for t in new.tensors if t.type.runtime == "ik"]
            assert new.metadata["general.file_type"] == 30
            assert new.metadata["gguftool.recipe"] == [word, "--compat mainline"]
            for t in old.tensors:
                if t.type.runtime != "ik":
                    assert new.read(new.tensor(t.name)) == old.read(t), t.name


def test_a_kept_output_tensor_may_not_spoil_the_file(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", n_layer=1)
    path = gguftool.quantize(model, tmp_path / "a.gguf", "F16", output_tensor_type="iq6_k").path
    with pytest.raises(PlanError, match=r"output\.weight: already quantized \(iq6_k, which llama\.cpp does not read"):
        gguftool.quantize(path, tmp_path / "b.gguf", "IQ4_KSS", leave_output_tensor=True, compat="mainline")
    options = {"leave_output_tensor": True, "allow_requantize": True, "effort": "fast"}
    gguftool.quantize(path, tmp_path / "b.gguf", "IQ4_KSS", compat="mainline", **options)
    assert types_of(tmp_path / "b.gguf")["output.weight"] == "q6_K"
    gguftool.quantize(path, tmp_path / "c.gguf", "IQ4_KSS", **options)
    assert types_of(tmp_path / "c.gguf")["output.weight"] == "iq6_k"


def woven_file(path: Path, kind: gguftool.QuantType, n_bytes: int) -> Path:
    tensors = [("blk.0.attn_q.weight", bytes(n_bytes), (4, 256), kind), ("output.weight", bytes(2048), (4, 256), F16)]
    write_gguf(path, keys(1, 256, 256, **{"general.file_type": u32(1), "x.y": text("")}), tensors)
    return path


def test_what_nothing_can_convert(tmp_path: Path) -> None:
    cases = {
        "iq4_k_r4": r"cannot decode iq4_k_r4: .*gguftool copy --unpack.* makes it iq4_k",
        "q4_k_r4": "cannot decode q4_k_r4: its rows are interleaved in a way that only ik_llama.cpp undoes",
    }
    for name, said in cases.items():
        path = woven_file(tmp_path / f"{name}.gguf", type_by_name(name), 4 * 144)
        with pytest.raises(PlanError, match=said):
            gguftool.quantize(path, tmp_path / "o.gguf", "copy", compat="mainline", allow_requantize=True)
    path = woven_file(tmp_path / "m.gguf", unknown_type(977), 640)
    with pytest.raises(PlanError, match=r"does not read blk\.0\.attn_q\.weight \(type 977\)"):
        gguftool.quantize(path, tmp_path / "o.gguf", "Q8_0", compat="mainline")
    with pytest.raises(UsageError, match="leave --compat mainline out"):
        gguftool.quantize(path, tmp_path / "o.gguf", "copy", compat="mainline", unpack=True)
    with pytest.raises(UsageError, match="'upstream' or 'mainline'"):
        gguftool.quantize(path, tmp_path / "o.gguf", "Q8_0", compat="fork")


def test_nothing_to_replace_is_said(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", n_layer=1)
    one = gguftool.quantize(model, tmp_path / "a.gguf", "Q4_K_M", compat="mainline", effort="fast")
    two = gguftool.quantize(model, tmp_path / "b.gguf", "Q4_K_M", effort="fast")
    assert any("--compat mainline changes nothing" in line for line in one.warnings)
    assert one.rows == two.rows and not one.replaced


def test_both_kinds_of_readers_in_one_file_have_none(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", n_layer=1)
    said = gguftool.quantize(model, tmp_path / "a.gguf", "IQ4_KSS", tensor_type=["ffn=tq2_0"], effort="fast").warnings
    assert any("no program reads iq4_kss and tq2_0 in one file" in line for line in said), said


def test_the_command_line_tells_who_reads_the_file_once(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", n_layer=1)
    for more in ([], ["--dry-run"], ["--json"], ["--dry-run", "--json"]):
        done = call("quantize", model, tmp_path / "o.gguf", "IQ4_KSS", "--force", *more)
        told = json.loads(done.stdout)["warnings"] if "--json" in more else []
        lines = [line for line in done.stderr.splitlines() + told if "ik_llama.cpp and its relatives" in line]
        assert lines, more
        assert len([line for line in done.stderr.splitlines() if line in lines]) == (more != ["--dry-run", "--json"])
        done = call("quantize", model, tmp_path / "o.gguf", "IQ4_KSS", "--force", "--compat", "mainline", *more)
        assert "relatives" not in done.stderr + done.stdout


def test_the_command_line_shows_the_price(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", n_layer=1)
    plain = call("quantize", model, "IQ4_KSS", "--dry-run").stdout.splitlines()
    for more in (["--dry-run"], []):
        lines = call("quantize", model, tmp_path / "o.gguf", "IQ4_KSS", "--compat", "mainline", *more).stdout
        table = [line.split() for line in lines.splitlines() if line.startswith(("iq4_kss ", "iq5_k ", "whole model"))]
        (kss,) = [row for row in table if row[0] == "iq4_kss"]
        assert kss[:2] == ["iq4_kss", "iq4_xs"] and int(kss[2]) >= 6
        (whole,) = [row for row in table if row[0] == "whole"]
        assert whole[-2] == plain[-1].partition("(")[2].partition(" ")[0]
        assert f"({whole[-1]} BPW)" in lines.splitlines()[-1]
        assert ("(iq4_xs for iq4_kss)" in lines) == bool(more)
    data = json.loads(call("quantize", model, "IQ4_KSS", "--compat", "mainline", "--dry-run", "--json").stdout)
    assert {(r["wished"], r["type"]) for r in data["replaced"]} >= {("iq4_kss", "iq4_xs")}
    assert all(r["nbytes_wished"] > 0 for r in data["replaced"])
    assert data["output"].endswith("ggml-model-IQ4_KSS-mainline.gguf")
