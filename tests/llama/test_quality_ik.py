"""Files of ik types as models: KL divergence to F16, beside that of ik_llama.cpp's own files.

libllama knows none of the types, so every file is decoded to F32 first and run as that. The reference's rows
(../shared/imatrix/reference-results.md) were run by ik_llama.cpp itself, which rounds activations to 8 bits; what that
costs is known from files that libllama runs both ways, and is taken off the reference's figures.

``python tests/llama/test_quality_ik.py [CHUNKS [TYPE ...]]`` prints the table of all types, mainline's between them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

import gguftool

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support_kld import Comparison, decoded

SHARED = Path(__file__).resolve().parents[3] / "shared"
MODELS = ("prose-llama-11m", "prose-moe-8m")

#: Rows of reference-quants.json: the reference's mean KL divergence over 60 chunks.
REFERENCE = {"ik-IQ4_KSS": 0.019295, "ik-IQ4_KSS-noim": 0.026204, "ik-IQ4_KSS-recipe": 0.012283}

#: What rounding the activations adds: 0.00068 to an IQ4_XS file of 0.0137, 0.00066 to a Q6_K file of 0.0009 (dense).
ACTIVATIONS = 0.0007

#: In order of their size in these models.
TYPES = (
    *("IQ1_KT", "IQ1_M", "IQ2_KT", "IQ2_KS", "IQ2_XS", "IQ2_K", "IQ2_KL", "Q2_K", "IQ3_XXS", "IQ3_KT", "IQ3_KS"),
    *("IQ3_S", "Q3_K_S", "IQ3_K", "IQ3_KL", "IQ4_KT", "IQ4_KSS", "IQ4_KS", "IQ4_XS", "IQ4_K", "IQ4_NL", "Q4_K_M"),
    *("IQ5_KS", "IQ5_K", "Q5_K_M", "Q6_0", "IQ6_K", "Q6_K", "Q8_KV", "Q8_0"),
)


def write(shared: Path, row: str, folder: Path) -> Path:
    """Our file for one of the reference's rows."""
    out = folder / f"{row}.gguf"
    card = (shared / "seeds" / "003_ca115dc0a87b1ed5.txt").read_text()
    gguftool.quantize(
        shared / "models" / f"{MODELS[0]}-f16.gguf",
        out,
        "IQ4_KSS",
        imatrix=None if row.endswith("-noim") else shared / "imatrix" / f"{MODELS[0]}.imatrix.gguf",
        custom_q=card if row.endswith("-recipe") else None,
        sync=False,
    )
    return out


def test_iq4_kss_is_a_better_model_than_the_references(shared: Path, tmp_path: Path) -> None:
    """The plain row on the reference's 60 chunks; the others on 24, the bound scaled by what these are to 60 for us."""
    model = Comparison(shared, MODELS[0], 60)
    plain = model.divergences(decoded(write(shared, "ik-IQ4_KSS", tmp_path)))
    assert plain.mean() < REFERENCE["ik-IQ4_KSS"] - ACTIVATIONS
    part = 24
    scale = plain[: len(plain) // model.chunks * part].mean() / plain.mean()
    for row in ("ik-IQ4_KSS-noim", "ik-IQ4_KSS-recipe"):
        kld = model.divergences(decoded(write(shared, row, tmp_path)), part).mean()
        assert kld < scale * (REFERENCE[row] - ACTIVATIONS), (row, kld, scale)


@pytest.mark.parametrize("row", REFERENCE)
def test_iq4_kss_has_the_references_types_and_sizes(shared: Path, tmp_path: Path, row: str) -> None:
    reference = json.loads((shared / "imatrix" / "reference-quants.json").read_text())[row]
    with gguftool.open_model(write(shared, row, tmp_path)) as written:
        found = {t.name: (t.type.name.lower(), t.nbytes) for t in written.tensors}
    assert found == {name: (t["type"], t["bytes"]) for name, t in reference["tensors"].items()}
    assert sum(nbytes for _, nbytes in found.values()) == reference["tensor_bytes"]


def main(words: list[str]) -> None:
    chunks = int(words[0]) if words else 60
    models = [Comparison(SHARED, name, chunks) for name in MODELS]
    print("| TYPE | dense: bpw | KLD | experts: bpw | KLD |\n|---|---:|---:|---:|---:|")
    for file_type in words[1:] or TYPES:
        cells = []
        for model in models:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out.gguf"
                done = gguftool.quantize(model.source, out, file_type, imatrix=model.imatrix, sync=False)
                cells.append(f"{done.bpw:.3f} | {model.kld(decoded(out)):.6f}")
        print(f"| {file_type} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
