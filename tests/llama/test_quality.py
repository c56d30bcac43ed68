"""A lower block error must be a better model: KL divergence of our files to F16 over that of ``llama_model_quantize``.

Same model, same imatrix, same types, same text and chunks. ``python tests/llama/test_quality.py [CHUNKS [TYPE ...]]``
prints the table: ours with the default objectives, and what the least-squares fit alone (``imatrix``) would give.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

import pytest

import gguftool

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support_kld import Comparison
from support_peer import peer_quantize

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHARED = Path(__file__).resolve().parents[3] / "shared"
MODEL = EXAMPLES / "prose-llama-11m-f16.gguf"
IMATRIX = EXAMPLES / "prose-llama-11m.imatrix.gguf"
MODELS = ("prose-llama-11m", "prose-moe-8m")

KQUANTS = ("Q4_K_M", "Q5_K_S", "Q3_K_L", "Q6_K", "Q2_K")
SMALL = ("IQ3_M", "IQ3_S", "IQ3_XXS", "IQ4_XS", "IQ4_NL", "IQ2_M", "IQ2_XS", "IQ1_M", "TQ2_0", "MXFP4_MOE")


def _types(path: Path) -> dict[str, str]:
    with gguftool.open_model(path) as model:
        return {tensor.name: tensor.type.name for tensor in model.tensors}


def pair(model: Comparison, file_type: str, folder: Path, **options: str) -> tuple[float, float]:
    """(ours, the peer's) mean KL divergence to F16 for one TYPE."""
    ours, peer = folder / f"ours-{file_type}.gguf", folder / f"peer-{file_type}.gguf"
    peer_quantize(model.source, peer, file_type, imatrix=model.imatrix)
    gguftool.quantize(model.source, ours, file_type, imatrix=model.imatrix, force=True, **options)
    assert _types(ours) == _types(peer)
    return model.kld(ours), model.kld(peer)


def geometric_mean(values: list[float]) -> float:
    return math.prod(values) ** (1 / len(values))


def test_kld_of_kquants_is_not_above_the_peers(shared: Path, tmp_path: Path) -> None:
    model = Comparison(shared, MODELS[0], 60)
    pairs = {name: pair(model, name, tmp_path) for name in KQUANTS}
    ratios = {name: mine / theirs for name, (mine, theirs) in pairs.items()}
    assert geometric_mean(list(ratios.values())) <= 1.00, ratios
    assert max(ratios.values()) <= 1.03, ratios


@pytest.mark.parametrize("name", MODELS)
def test_kld_of_small_types_is_below_the_peers(shared: Path, tmp_path: Path, name: str) -> None:
    model = Comparison(shared, name, 24)
    types = SMALL if name == MODELS[1] else SMALL[:-1]
    pairs = {file_type: pair(model, file_type, tmp_path) for file_type in types}
    ratios = {file_type: mine / theirs for file_type, (mine, theirs) in pairs.items()}
    assert geometric_mean(list(ratios.values())) <= 0.97, ratios
    assert max(ratios.values()) <= 1.03, ratios


def test_q8_0_has_the_peers_bytes(tmp_path: Path) -> None:
    ours, peer = tmp_path / "ours.gguf", tmp_path / "peer.gguf"
    peer_quantize(MODEL, peer, "Q8_0", imatrix=IMATRIX)
    gguftool.quantize(MODEL, ours, "Q8_0", imatrix=IMATRIX)
    with gguftool.open_model(ours) as a, gguftool.open_model(peer) as b:
        assert {t.name for t in a.tensors} == {t.name for t in b.tensors}
        for tensor in a.tensors:
            assert a.read(tensor) == b.read(b.tensor(tensor.name)), tensor.name


def main(words: list[str]) -> None:
    chunks = int(words[0]) if words else 60
    wanted = words[1:] or [*KQUANTS, *SMALL]
    ratios = []
    print("| type | model | peer | ours | ratio | least squares alone |\n|---|---|---:|---:|---:|---:|")
    for name in MODELS:
        model = Comparison(SHARED, name, chunks)
        for file_type in wanted:
            if file_type == "MXFP4_MOE" and name != MODELS[1]:
                continue
            with tempfile.TemporaryDirectory() as folder:
                mine, theirs = pair(model, file_type, Path(folder))
                plain, _ = pair(model, file_type, Path(folder), objective="imatrix")
            ratios.append(mine / theirs)
            cells = f"{theirs:.6f} | {mine:.6f} | {mine / theirs:.3f} | {plain / theirs:.3f}"
            print(f"| {file_type} | {name} | {cells} |", flush=True)
    print(f"\ngeometric mean of the ratios: {geometric_mean(ratios):.3f}, largest {max(ratios):.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
