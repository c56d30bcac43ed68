"""A lower block error must be a better model: KL divergence of our files to F16 over that of ``llama_model_quantize``.

Same model, same imatrix, same types, same text and chunks. ``python tests/llama/test_quality.py`` prints the table.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import gguftool
from gguftool.llama.perplexity import divergence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support_peer import peer_quantize

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODEL = EXAMPLES / "prose-llama-11m-f16.gguf"
IMATRIX = EXAMPLES / "prose-llama-11m.imatrix.gguf"
TYPES = ("Q4_K_M", "Q5_K_S", "Q3_K_L", "Q6_K", "Q2_K")


def _types(path: Path) -> dict[str, str]:
    with gguftool.open_model(path) as model:
        return {tensor.name: tensor.type.name for tensor in model.tensors}


def kld_pair(file_type: str, text: str, folder: Path, *, chunks: int, **options: str) -> tuple[float, float]:
    """(ours, the peer's) mean KL divergence to F16 for one TYPE."""
    ours, peer = folder / f"ours-{file_type}.gguf", folder / f"peer-{file_type}.gguf"
    peer_quantize(MODEL, peer, file_type, imatrix=IMATRIX)
    gguftool.quantize(MODEL, ours, file_type, imatrix=IMATRIX, **options)
    assert _types(ours) == _types(peer)
    mine, theirs = (divergence(path, MODEL, text, chunks=chunks).kld.value for path in (ours, peer))
    return mine, theirs


def test_kld_is_not_above_the_peers(shared: Path, tmp_path: Path) -> None:
    text = (shared / "text" / "wiki.test.raw").read_text()
    pairs = {name: kld_pair(name, text, tmp_path, chunks=60) for name in TYPES}
    ratios = {name: mine / theirs for name, (mine, theirs) in pairs.items()}
    assert math.prod(ratios.values()) ** (1 / len(ratios)) <= 1.00, ratios
    assert max(ratios.values()) <= 1.03, ratios


def test_q8_0_has_the_peers_bytes(tmp_path: Path) -> None:
    ours, peer = tmp_path / "ours.gguf", tmp_path / "peer.gguf"
    peer_quantize(MODEL, peer, "Q8_0", imatrix=IMATRIX)
    gguftool.quantize(MODEL, ours, "Q8_0", imatrix=IMATRIX)
    with gguftool.open_model(ours) as a, gguftool.open_model(peer) as b:
        assert {t.name for t in a.tensors} == {t.name for t in b.tensors}
        for tensor in a.tensors:
            assert a.read(tensor) == b.read(b.tensor(tensor.name)), tensor.name


if __name__ == "__main__":
    import tempfile

    words = Path(sys.argv[1]).read_text()
    with tempfile.TemporaryDirectory() as scratch:
        for kind in TYPES:
            mine, theirs = kld_pair(kind, words, Path(scratch), chunks=60)
            print(f"{kind:8} ours {mine:.6f}  peer {theirs:.6f}  ratio {mine / theirs:.4f}")
