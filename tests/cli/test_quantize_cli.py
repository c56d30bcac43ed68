"""The quantize and copy commands as people call them: words, output, exit codes, signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support_models import F16, F32, keys, shapes, write_imatrix, write_model

from gguftool.format.reader import open_model
from gguftool.format.writer import encode_header, tensor_offsets

REPO = Path(__file__).resolve().parents[2]
MAIN = "from gguftool.cli.main import main; main()"


def call(*words: object, cwd: Path | None = None, status: int = 0) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, words)], capture_output=True, text=True, cwd=cwd, env=env, check=False
    )
    assert done.returncode == status, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


def types_of(path: Path) -> dict[str, str]:
    with open_model(path) as model:
        return {t.name: t.type.name for t in model.tensors}


def test_lines_in_llama_quantizes_shape(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", n_layer=1)
    said = call("quantize", "m.gguf", "q8_0", "2", cwd=tmp_path).stdout.splitlines()
    lines = [line for line in said if line.startswith("[")]
    assert len(lines) == 12
    shape = r"\[ *(\d+)/ *12\] \S+ +- \[ *\d+, +\d+, +1, +1\], type = +f(16|32), "
    assert [int(re.match(shape, line)[1]) for line in lines] == list(range(1, 13))  # type: ignore[index]
    assert lines[0].endswith("converting to q8_0 .. size =     0.03 MiB ->     0.02 MiB")
    assert re.fullmatch(r"ggml-model-Q8_0\.gguf: 0\.001 GiB \(8\.\d{3} BPW\) in \d+\.\d s", said[-1])
    assert (tmp_path / "ggml-model-Q8_0.gguf").exists()


def test_options_anywhere_and_rules_in_the_order_of_the_line(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", n_layer=1)
    (tmp_path / "rules").write_text("attn_[kv]=q5_0  # both\nffn_up=q4_1\n")
    call(
        "quantize", "--tensor-type", "attn_k=q4_1", "m.gguf", "--tensor-type-file=rules", "o.gguf", "--custom-q",
        "attn_v=q8_0,attn_q=f32", "q4_0", "--tensor-type", "attn_q=q8_0", "--output-tensor-type", "Q5_1",
        "--token-embedding-type=f16", cwd=tmp_path,
    )  # fmt: skip
    found = types_of(tmp_path / "o.gguf")
    assert {n: found[f"blk.0.{n}.weight"] for n in ("attn_k", "attn_v", "attn_q", "ffn_up", "ffn_down")} == {
        "attn_k": "q4_1", "attn_v": "q5_0", "attn_q": "f32", "ffn_up": "q4_1", "ffn_down": "q4_0",
    }  # fmt: skip
    assert (found["output.weight"], found["token_embd.weight"]) == ("q5_1", "f16")


def test_pure_leave_output_and_a_negative_thread_number(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", n_layer=1)
    call("quantize", "m.gguf", "o.gguf", "q4_0", "--pure", "--leave-output-tensor", "-1", cwd=tmp_path)
    found = types_of(tmp_path / "o.gguf")
    assert (found["output.weight"], found["token_embd.weight"]) == ("f16", "q4_0")


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("quantize", 2, "INPUT [OUTPUT] TYPE"),
        ("quantize m.gguf o.gguf q4_9", 2, "unknown TYPE 'q4_9'"),
        ("quantize m.gguf o.gguf q8_0 --nonsense", 2, "No such option"),
        ("quantize m.gguf o.gguf q8_0 --tensor-type x", 2, "PATTERN=TYPE"),
        ("quantize m.gguf o.gguf q8_0 --tensor-type attn=q8_K", 2, "cannot be converted to q8_K"),
        ("quantize m.gguf o.gguf q8_0 --tensor-type absent=q8_0", 1, "matches no tensor"),
        ("quantize m.gguf o.gguf q8_0 --prune-layers 1-x", 2, "no layer number"),
        ("quantize m.gguf o.gguf q8_0 --prune-layers=", 2, "an item is empty"),
        ("quantize m.gguf o.gguf q8_0 --prune-layers 9", 1, "cannot prune layers 9"),
        ("quantize m.gguf o.gguf q8_0 --override-kv a=b", 2, "KEY=TYPE:VALUE"),
        ("quantize m.gguf o.gguf q8_0 --max-buffer-size lots", 2, "is no size"),
        ("quantize m.gguf o.gguf q8_0 --imatrix absent.dat", 1, "absent.dat"),
        ("quantize m.gguf o.gguf q8_0 --include-weights a --exclude-weights b", 2, "together"),
        ("quantize absent.gguf o.gguf q8_0", 1, "absent.gguf"),
        ("quantize m.gguf m.gguf q8_0", 1, "overwrite the input"),
        ("copy m.gguf m.gguf", 1, "overwrite the input"),
        ("copy m.gguf", 2, "OUT"),
    ],
)
def test_trouble_is_one_line_and_a_status(tmp_path: Path, line: str, status: int, said: str) -> None:
    write_model(tmp_path / "m.gguf", n_layer=1)
    done = call(*line.split(), cwd=tmp_path, status=status)
    assert said in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_a_dry_run_shows_both_numbers_fallbacks_and_problems(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", width=320, ff=256)
    write_imatrix(tmp_path / "i.gguf", shapes(3, 320, 256, 64))
    done = call("quantize", "--dry-run", "--prune-layers", "1", "--imatrix", "i.gguf", "m.gguf", "Q4_K_M", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert any(re.search(r"blk\.1\.attn_q\.weight \(was blk\.2\.attn_q\.weight\)", line) for line in lines)
    assert any("(q5_0, q4_K does not fit)" in line for line in lines)
    assert any(re.fullmatch(r"fallback: \d+ tensors get q5_0 because q4_K .*: \+0\.\d{4} BPW", line) for line in lines)
    assert any(line.startswith("estimate: ") and "MiB of memory" in line for line in lines)
    assert re.fullmatch(r"0\.\d{3} GiB \(\d+\.\d{3} BPW\)", lines[-1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.gguf", "m.gguf"]
    refused = call("quantize", "--dry-run", "m.gguf", "m.gguf", "Q8_0", cwd=tmp_path)
    assert "would be refused: m.gguf: the output would overwrite the input" in refused.stderr


def test_the_model_cards_recipe(shared: Path, tmp_path: Path) -> None:
    """40 layers, width 5120, feed-forward 32768, query 4096, key and value 1024: a file of holes behind its header."""
    card = (shared / "seeds" / "003_ca115dc0a87b1ed5.txt").read_text()
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (131072, 5120),
        "output_norm.weight": (5120,),
        "output.weight": (131072, 5120),
    }
    for layer in range(40):
        p = f"blk.{layer}."
        found |= {p + "attn_norm.weight": (5120,), p + "ffn_norm.weight": (5120,)}
        found |= {p + "attn_q.weight": (4096, 5120), p + "attn_output.weight": (5120, 4096)}
        found |= {p + "attn_k.weight": (1024, 5120), p + "attn_v.weight": (1024, 5120)}
        found |= {p + "ffn_gate.weight": (32768, 5120), p + "ffn_up.weight": (32768, 5120)}
        found[p + "ffn_down.weight"] = (5120, 32768)
    kinds = {name: F32 if len(shape) == 1 else F16 for name, shape in found.items()}
    offsets, total = tensor_offsets([kinds[name].nbytes(shape) for name, shape in found.items()], 32)
    tensors = [(name, shape, kinds[name], offset) for (name, shape), offset in zip(found.items(), offsets, strict=True)]
    header = encode_header(keys(40, 5120, 32768), tensors, 32)
    with open(tmp_path / "m.gguf", "wb") as file:
        file.write(header)
        file.truncate(len(header) + total)
    done = call("quantize", "--dry-run", "--custom-q", card, "m.gguf", "IQ4_KSS", "24", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "12.069 GiB (4.398 BPW)"
    assert (tmp_path / "m.gguf").stat().st_blocks * 512 < 10_000_000


def test_json(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", n_layer=1)
    plan = json.loads(call("quantize", "--dry-run", "--json", "m.gguf", "o.gguf", "q8_0", cwd=tmp_path).stdout)
    done = json.loads(call("quantize", "--json", "m.gguf", "o.gguf", "q8_0", "--report", "e.csv", cwd=tmp_path).stdout)
    assert plan["output"] == "o.gguf" and done["paths"] == ["o.gguf"] and plan["problems"] == []
    assert done["bytes"] == plan["bytes"] == sum(t["bytes"] for t in plan["tensors"])
    assert done["tensors"][0]["sqnr_db"] > 30 and plan["tensors"][0]["sqnr_db"] is None
    assert (tmp_path / "e.csv").read_text().startswith("name,")


def test_copy_and_its_options(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf")
    call("copy", "m.gguf", "c.gguf", cwd=tmp_path)
    assert (tmp_path / "c.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()
    call("copy", "m.gguf", "p.gguf", "--prune-layers", "0-1", "--override-kv", "general.name=str:short", cwd=tmp_path)
    with open_model(tmp_path / "p.gguf") as model:
        assert (model.metadata["llama.block_count"], model.metadata["general.name"]) == (1, "short")
    split = call("copy", "m.gguf", "s.gguf", "--keep-split", cwd=tmp_path)
    assert split.stdout.splitlines()[-1].startswith("s-00001-of-00001.gguf: ")
    with open_model(tmp_path / "s-00001-of-00001.gguf") as model:
        assert not [k for k in model.metadata if k.startswith("split.")]


def test_help_tells_the_differences() -> None:
    said = call("quantize", "--help").stdout
    for part in ("Differences from llama-quantize", "--compat upstream", "INPUT [OUTPUT] TYPE [NTHREADS]", "--restart"):
        assert part in said


SLOW = """
import sys, time
from gguftool.run import pool, tasks
tasks.TASK_ELEMENTS, tasks.COPY_BYTES = 1 << 13, 1 << 14
real = pool.run_task
def slow(*args):
    time.sleep(0.01)
    return real(*args)
pool.run_task = slow
from gguftool.cli.main import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_what_is_done_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    write_model(tmp_path / "m.gguf")
    line = ["quantize", "m.gguf", "o.gguf", "q8_0", "2"]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=env,
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        while not run.stdout.readline().startswith("[   3/"):
            pass
        run.send_signal(number)
        trouble = run.stderr.read()
    assert run.returncode == 1
    assert re.fullmatch(
        r"gguftool: stopped at \d+ %: the same command goes on from there; .*o\.gguf\.part.*\n", trouble
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "o.gguf.journal", "o.gguf.part"]
    other = call(*line[:3], "q4_0", cwd=tmp_path, status=1)
    assert "another recipe or options" in other.stderr and "--restart" in other.stderr
    resumed = subprocess.run(
        [sys.executable, "-c", SLOW.replace("0.01", "0"), *line],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
        check=True,
    )
    assert re.search(r"resumed: \d+ of \d+ pieces of work", resumed.stdout)
    call("quantize", "m.gguf", "again.gguf", "q8_0", cwd=tmp_path)
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "o.gguf").read_bytes()


def test_a_type_that_needs_an_imatrix_is_refused_in_one_line(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", n_layer=1)
    done = call("quantize", "--pure", "m.gguf", "o.gguf", "iq3_xxs", cwd=tmp_path, status=1)
    (line,) = done.stderr.splitlines()
    assert "iq3_xxs needs an importance matrix (" in line and "needs none: iq3_s, iq4_nl, iq4_xs," in line
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_idle_importances_are_told(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", n_layer=1)
    write_imatrix(
        tmp_path / "i.gguf", {name: shape for name, shape in shapes(1, 256, 512, 64).items() if len(shape) > 1}
    )
    at = (tmp_path / "i.gguf").read_bytes()
    with open_model(tmp_path / "i.gguf") as imatrix:
        raw = imatrix.read(imatrix.tensor("blk.0.attn_k.weight.in_sum2"))
    assert at.count(raw) == 1
    (tmp_path / "i.gguf").write_bytes(at.replace(raw, bytes(len(raw))))
    said = call("quantize", "m.gguf", "o.gguf", "iq3_s", "--imatrix", "i.gguf", cwd=tmp_path).stdout
    assert "1 importance blocks of 1 tensors were never observed and fitted evenly" in said
