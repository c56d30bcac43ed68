"""Which objective makes the better model? KL divergence to F16 of whole files, per type and objective.

    python tests/bench_objectives.py [--chunks 40] [--types Q4_K_S,Q3_K_S] [--effort default]

Every file is ``--pure`` but for its embedding and output (Q8_0, so that they do not hide the type), with the
importance matrix, on the dense and on the mixture-of-experts model of ../shared; the peer's file has the same types.
libllama knows no ik types: their files are decoded to F32, and the ratios are to the first objective.
The defaults in ``gguftool.codecs.dispatch`` come from this table.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from support_kld import decoded
from support_peer import FTYPES, peer_quantize

import gguftool
from gguftool.codecs.dispatch import OBJECTIVES
from gguftool.llama.perplexity import divergence

SHARED = Path(__file__).resolve().parents[2] / "shared"
MODELS = ("prose-llama-11m", "prose-moe-8m")
TYPES = "Q2_K,Q3_K_S,Q4_K_S,Q5_K_S,Q6_K,Q4_0,Q4_1,Q5_0,Q5_1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--effort", default="default")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    text = (SHARED / "text" / "wiki.test.raw").read_text()
    print(f"| model | type | libllama | {' | '.join(OBJECTIVES)} |\n|---|---|---:{'|---:' * len(OBJECTIVES)}|")
    for name in MODELS:
        model = SHARED / "models" / f"{name}-f16.gguf"
        imatrix = SHARED / "imatrix" / f"{name}.imatrix.gguf"
        for file_type in options.types.split(","):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out.gguf"

                def kld(path: Path = out, base: Path = model) -> float:
                    return divergence(path, base, text, chunks=options.chunks, threads=options.threads).kld.value

                theirs = None
                if file_type in FTYPES:
                    peer_quantize(model, out, file_type, imatrix=imatrix, pure=True)
                    theirs = kld()
                peers = f"{theirs:.6f}" if theirs else "-"
                cells = []
                for objective in OBJECTIVES:
                    gguftool.quantize(
                        model, out, file_type, imatrix=imatrix, pure=True, objective=objective,
                        output_tensor_type="q8_0", token_embedding_type="q8_0", effort=options.effort, force=True,
                    )  # fmt: skip
                    ours = kld(out if file_type in FTYPES else decoded(out))
                    theirs = theirs or ours
                    cells.append(f"{ours:.6f} ({ours / theirs:.3f})")
            print(f"| {name} | {file_type} | {peers} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
