"""Files of ik_llama.cpp's types from the command line: a model card's recipe, and every TYPE name for two models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import gguftool
from gguftool.cli.main import cli
from gguftool.format.reader import open_model

DENSE, EXPERTS = "prose-llama-11m", "prose-moe-8m"


def call(*words: object) -> Result:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    return done


def readers(text: str) -> list[str]:
    return [line for line in text.splitlines() if "ik_llama.cpp and its relatives" in line]


def test_the_model_cards_recipe_is_written(shared: Path, tmp_path: Path) -> None:
    """Types, shapes and bytes are those of ik_llama.cpp's own tool, tensor by tensor."""
    card = (shared / "seeds" / "003_ca115dc0a87b1ed5.txt").read_text()
    source, imatrix = shared / "models" / f"{DENSE}-f16.gguf", shared / "imatrix" / f"{DENSE}.imatrix.dat"
    out = tmp_path / "out.gguf"
    line = ("quantize", "--custom-q", card, "--imatrix", imatrix, source, out, "IQ4_KSS", "24")
    planned = call(*line, "--dry-run")
    assert not out.exists()
    done = call(*line)
    for said in (planned, done):
        assert readers(said.stdout) == []
        (told,) = readers(said.stderr)
        assert told.startswith("warning: iq4_k, iq4_ks, iq4_kss, iq6_k: ")
    wanted = json.loads((shared / "imatrix" / "reference-quants.json").read_text())["ik-IQ4_KSS-recipe"]
    with open_model(out) as model:
        found = {
            t.name: {"type": t.type.name.lower(), "ne": list(reversed(t.shape)), "bytes": t.nbytes}
            for t in model.tensors
        }
        assert model.metadata["general.file_type"] == 148
    assert found == {n: {key: t[key] for key in ("type", "ne", "bytes")} for n, t in wanted["tensors"].items()}
    summed = gguftool.info(out)
    assert (summed.nbytes, round(summed.bpw or 0, 4)) == (wanted["tensor_bytes"], wanted["bpw"])
    assert done.stdout.splitlines()[-1].startswith(f"{out}: 0.007 GiB ({wanted['bpw']:.3f} BPW)")
    assert call("verify", out).stdout == "out.gguf: 111 tensors, 111 decoded, 0 damaged\n"


Q5K, Q6K = "q5_K", "q6_K"
#: What the mixtures do to the dense model (12 layers, two query heads for each key) with importances, by role; the
#: rest has the base type. From the rules in words, not from the code.
ON_DENSE: dict[str, dict[str, str]] = {
    "IQ2_K": {"output": Q5K, "attn_v": "iq4_k", "attn_output": "iq3_k"},
    "IQ2_KS": {"output": Q5K, "attn_v": "iq3_k", "ffn_down 0": "q2_K"},
    "IQ2_KL": {"output": Q5K, "attn_v": "iq4_ks"},
    "IQ3_K": {"output": Q5K, "attn_v": "iq4_k"},
    "IQ3_KS": {"output": Q5K, "attn_v": "iq4_ks"},
    "IQ3_KL": {"output": Q6K, "attn_v": "iq5_k", "attn_output": "iq4_ks"}
    | {f"{role} {i}": "iq4_ks" for role in ("ffn_down", "ffn_gate", "ffn_up") for i in (0, 3, 6, 9, 10, 11)},
    "IQ4_KSS": {"output": Q6K, "attn_v": "iq5_k"},
    "IQ4_KS": {"output": Q6K, "attn_v": "iq5_k"},
    "IQ4_K": {"output": Q6K, "attn_v": "iq5_k"},
    "IQ5_K": {"output": Q6K},
    "IQ5_KS": {"output": Q6K},
    "IQ6_K": {},
    "IQ1_KT": {"output": Q5K},
    "IQ2_KT": {"output": Q5K, "attn_v": "iq3_k", "attn_output": "iq3_k", "ffn_down 0": "iq3_k"},
    "IQ3_KT": {"output": Q5K, "token_embd": "iq3_s", "attn_v": "iq3_k"},
    "IQ4_KT": {"output": Q6K, "attn_v": "iq4_k"},
    "Q6_0": {"output": Q6K},
    "Q8_KV": {},
}
_Q8 = {"attn_k": "q8_0", "attn_v": "q8_0"}
#: The same for the model with four experts and 6 layers.
ON_EXPERTS: dict[str, dict[str, str]] = {
    name: {"output": Q5K if name.startswith(("IQ2", "IQ3_K", "IQ1")) else Q6K, **_Q8, "attn_output": Q5K}
    for name in ("IQ2_K", "IQ3_K", "IQ3_KS", "IQ3_KT", "IQ4_KSS", "IQ4_KS", "IQ4_K", "IQ5_KS")
} | {
    "IQ2_KS": {"output": Q5K, "attn_v": "iq4_k", "attn_output": Q5K},
    "IQ2_KL": {"output": Q5K, **_Q8, "attn_output": "iq4_ks"},
    "IQ3_KL": {"output": Q6K, **_Q8, "attn_output": Q5K}
    | {f"{role}_exps {i}": "iq4_ks" for role in ("ffn_down", "ffn_gate", "ffn_up") for i in (2, 5)},
    "IQ5_K": {"output": Q6K, **_Q8},
    "IQ6_K": _Q8,
    "IQ1_KT": {"output": Q5K, **_Q8},
    "IQ2_KT": {"output": Q5K, "attn_v": "iq4_k", "attn_output": Q5K},
    "IQ4_KT": {"output": Q6K, **_Q8},
    "Q6_0": {"output": Q6K, **_Q8},
    "Q8_KV": _Q8,
}
ON_EXPERTS["IQ3_KT"]["token_embd"] = "iq3_s"


@pytest.mark.parametrize("model", [DENSE, EXPERTS])
@pytest.mark.parametrize("word", ON_DENSE)
def test_every_type_name(shared: Path, tmp_path: Path, word: str, model: str) -> None:
    source, imatrix = shared / "models" / f"{model}-f16.gguf", shared / "imatrix" / f"{model}.imatrix.gguf"
    out = tmp_path / "out.gguf"
    done = call("quantize", "--imatrix", imatrix, "--effort", "fast", source, out, word.lower())
    assert len(readers(done.stderr)) == 1
    wanted = (ON_EXPERTS if model == EXPERTS else ON_DENSE)[word]
    base = "iq3_k" if word == "IQ3_KL" else word.lower()
    used = set()
    with open_model(source) as before, open_model(out) as after:
        assert len(after.tensors) == len(before.tensors)
        for t in after.tensors:
            parts = t.name.removesuffix(".weight").split(".")
            role = parts[-1]
            exact = f"{role} {parts[1]}" if parts[0] == "blk" else role
            kept = role.endswith("_norm") or role == "ffn_gate_inp"
            key = exact if exact in wanted else role
            used.add(key)
            expected = "f32" if kept else wanted.get(key, base)
            assert t.type.name.lower() == expected.lower(), t.name
            assert t.shape == before.tensor(t.name).shape
            assert t.nbytes == t.type.nbytes(t.shape)
    assert used >= wanted.keys()
    count = 111 if model == DENSE else 63
    assert call("verify", out).stdout == f"out.gguf: {count} tensors, {count} decoded, 0 damaged\n"
    assert f"file type     {word}\n" in call("info", out).stdout
