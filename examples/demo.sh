#!/bin/sh
# The main job on the small model of this folder: from an importance matrix to a model that is better than the stock
# mixture of the same size, measured. Usage: demo.sh OUT_FOLDER
set -eu
out=${1:-demo-output}
here=$(dirname "$0")
model=$here/prose-llama-11m-f16.gguf
imatrix=$here/prose-llama-11m.imatrix.gguf
other=$here/prose-llama-11m.offline.imatrix.gguf
text=$here/prose.txt
planned=$out/planned-q4_k_s.gguf
stock=$out/stock-q4_k_m.gguf
mkdir -p "$out"

step() { printf '\n== %s\n' "$1"; }
run() { printf '$ %s\n' "$*"; "$@"; }
quiet() { # LOG COMMAND...: the command is shown, what it prints only if it fails
    log=$1
    shift
    printf '$ %s\n' "$*"
    "$@" >"$log" 2>&1 || { cat "$log"; exit 1; }
}
has() { python -c "import $1" 2>/dev/null; }

step "What does the importance matrix say about the layers?"
run gguftool stats --no-layers --tensor ffn_down "$imatrix"
quiet "$out/stats.log" gguftool stats --plot "$out/layers.png" "$imatrix"

step "Would another calibration text say the same?"
run gguftool imatrix diff --top 3 --plot "$out/texts.png" "$imatrix" "$other"

step "Plan: Q4_K_S with bits spent where they count, up to the size of Q4_K_M"
run gguftool plan --by entropy --budget-bpw 4.9486 --model "$model" "$imatrix" q4_k_s
run gguftool plan --by entropy --budget-bpw 4.9486 --model "$model" --for file --force -o "$out/plan.txt" "$imatrix" q4_k_s

step "Quantize with the plan, and beside it the stock mixture"
quiet "$out/planned.log" gguftool quantize --force --imatrix "$imatrix" --tensor-type-file "$out/plan.txt" \
    --report "$out/errors.csv" "$model" "$planned" q4_k_s
tail -n 1 "$out/planned.log"
quiet "$out/stock.log" gguftool quantize --force --imatrix "$imatrix" "$model" "$stock" q4_k_m
tail -n 1 "$out/stock.log"

step "Are the files whole?"
run gguftool verify "$planned" "$stock"

if has llama_cpp; then
    step "Which is nearer to the original?"
    run gguftool kld --base "$model" -f "$text" --chunks 8 "$stock" "$planned"
    step "Two layers less: which, and what do the same bytes cost by quantizing harder?"
    run gguftool plan --prune 2 --model "$model" -f "$text" --chunks 3 --candidates 3 "$imatrix" q4_k_m
else
    step "Two layers less: which? (ranked only)"
    run gguftool plan --prune 2 --model "$model" "$imatrix" q4_k_m
    printf '\nWithout llama-cpp-python nothing is measured: pip install llama-cpp-python, and run this again.\n'
fi

step "Layers 4 and 7 left out, the rest quantized"
quiet "$out/pruned.log" gguftool quantize --force --imatrix "$imatrix" --prune-layers 4,7 \
    "$model" "$out/pruned-q4_k_m.gguf" q4_k_m
tail -n 1 "$out/pruned.log"

if has jinja2; then
    step "A page to look around in"
    run gguftool report --force --model "$model" -o "$out/report.html" "$imatrix"
fi

printf '\nIn %s: three models, plan.txt (the rules), errors.csv (error per tensor), layers.png and texts.png (charts), logs' "$out"
has jinja2 && printf ', report.html (open it in a browser)'
printf '.\n'
