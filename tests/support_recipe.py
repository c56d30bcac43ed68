"""Synthetic models for the tests of recipes: names, shapes and facts, no file behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from gguftool.format.quanttypes import type_by_name
from gguftool.recipe.facts import ModelFacts, TensorFacts

F32, F16, BF16 = (type_by_name(name) for name in ("f32", "f16", "bf16"))


def tensor(name: str, *shape: int, type_name: str = "f32") -> TensorFacts:
    return TensorFacts(name, shape, type_by_name(type_name))


def model(
    roles: Iterable[str], n_layer: int, *, tied: bool = False, n_expert: int = 0, width: int = 256, vocab: int = 256
) -> list[TensorFacts]:
    """A model of ``n_layer`` blocks with these roles, norms and embeddings; expert stacks are 3-D."""
    tensors = [tensor("token_embd.weight", vocab, width), tensor("output_norm.weight", width)]
    if not tied:
        tensors.append(tensor("output.weight", vocab, width))
    for layer in range(n_layer):
        tensors.append(tensor(f"blk.{layer}.attn_norm.weight", width))
        for role in roles:
            shape = (n_expert, 32, width) if role.endswith("_exps") else (width, width)
            tensors.append(tensor(f"blk.{layer}.{role}.weight", *shape))
    return tensors


DENSE = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
MOE = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"]
SHARED_EXPERTS = [*MOE, "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"]
FALCON = ["attn_qkv", "attn_output", "ffn_up", "ffn_down"]


def _facts(layers: int, heads: int, kv: int, *, arch: str = "llama", experts: int = 0, vocab: int = 256) -> ModelFacts:
    return ModelFacts(arch, layers, heads, kv, experts, vocab, 256, layers)


#: The models of the two files of recorded outcomes, as their headers describe them.
RECORDED: dict[str, tuple[ModelFacts, list[TensorFacts]]] = {
    "mha24": (_facts(24, 8, 8), model(DENSE, 24)),
    "gqa4_tied24": (_facts(24, 8, 2), model(DENSE, 24, tied=True)),
    "gqa2_24": (_facts(24, 8, 4), model(DENSE, 24)),
    "llama8b32": (_facts(32, 8, 2, vocab=128256), model(DENSE, 32, vocab=128256)),
    "llama70b80": (_facts(80, 8, 1), model(DENSE, 80)),
    "moe8_24": (_facts(24, 8, 2, experts=8), model(MOE, 24, n_expert=8)),
    "moe16sh_24": (_facts(24, 8, 8, experts=16), model(SHARED_EXPERTS, 24, n_expert=16)),
    "falcon32": (_facts(32, 8, 1, arch="falcon"), model(FALCON, 32)),
}


def recorded_rows(path: Path) -> Iterator[tuple[str, str, bool, dict[str, list[str]] | None]]:
    """(model, TYPE, imatrix?, types by role and layer or None for refused) for every outcome; 'any' gives two."""
    for line in path.read_text().splitlines():
        if line.startswith("#") or not line:
            continue
        name, file_type, imatrix, outcome = line.split("\t")
        types: dict[str, list[str]] | None = None
        if outcome != "refused":
            types = {}
            for cell in outcome.split():
                role, runs = cell.split("=")
                types[role] = [t for run in runs.split(",") for t in _run(run)]
        for has in {"no": [False], "yes": [True], "any": [False, True]}[imatrix]:
            yield name, file_type, has, types


def _run(text: str) -> list[str]:
    count, name = text.split("*")
    return [name] * int(count)


def by_role(names_and_types: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The types of each role in layer order, as the recorded rows have them; norms left out."""
    found: dict[str, dict[int, str]] = {}
    for name, type_name in names_and_types:
        parts = name.split(".")
        layer, role = (int(parts[1]), parts[2]) if parts[0] == "blk" else (0, parts[0])
        if not role.endswith("_norm"):
            found.setdefault(role, {})[layer] = type_name
    return {role: [types[i] for i in sorted(types)] for role, types in found.items()}
