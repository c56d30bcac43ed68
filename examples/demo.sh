#!/bin/sh
# The main job on the small model of this folder: look, draw, plan, prune and quantize, verify. Usage: demo.sh OUT_FOLDER
set -eu
out=${1:-demo-output}
here=$(dirname "$0")
model=$here/prose-llama-11m-f16.gguf
imatrix=$here/prose-llama-11m.imatrix.gguf
pruned=$out/prose-llama-pruned-q4_k_m.gguf
mkdir -p "$out"

step() { printf '\n== %s\n' "$1"; }
run() { printf '$ %s\n' "$*"; "$@"; }

step "What does the importance matrix say about the layers?"
run gguftool stats --tensor 'attn_q|ffn_down' --plot "$out/layers.png" "$imatrix"

step "Plan: what would be written? (nothing is yet)"
run gguftool quantize --dry-run --imatrix "$imatrix" --tensor-type attn_v=q6_k --prune-layers 3,7 \
    "$model" "$pruned" q4_k_m

step "Prune two layers and quantize"
run gguftool quantize --force --imatrix "$imatrix" --tensor-type attn_v=q6_k --prune-layers 3,7 \
    --report "$out/errors.csv" "$model" "$pruned" q4_k_m

step "Is the file whole?"
run gguftool verify "$pruned"

if python -c 'import llama_cpp' 2>/dev/null; then
    step "How far is it from the original?"
    run gguftool kld --base "$model" -f "$here/prose.txt" --chunks 20 "$pruned"
fi
printf '\nIn %s: the model, errors.csv (error per tensor) and layers.png (the chart).\n' "$out"
