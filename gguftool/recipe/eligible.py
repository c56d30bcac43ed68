"""Which tensors may be converted at all; every other one keeps its type and its bytes.

The conditions are llama-quantize's, by name and shape, with three differences: integer tensors are never converted,
"ends in weight" is tested plainly (upstream's arithmetic lets five-letter names through), and a fourth dimension is
reported as a problem by the caller instead of being cut off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gguftool.recipe.facts import TensorFacts

_TIME_MIX = ["w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2", "decay_w1", "decay_w2", "lerp_fused"]
_EXCLUDED = re.compile(
    "|".join(
        re.escape(part)
        for part in (
            "_norm.weight",
            "ffn_gate_inp.weight",
            "ffn_gate_tid2eid.weight",
            "altup",
            "laurel",
            "per_layer_model_proj",
            "ssm_conv1d",
            "shortconv.conv.weight",
            "indexer.k_proj.weight",
            "indexer.q_proj.weight",
            "time_mix_first.weight",
            *(f"time_mix_{part}.weight" for part in _TIME_MIX),
            "attn_rel_b.weight",
            ".position_embd",
            "sam.pos_embd",
            "sam.neck.",
            "sam.net_",
            ".rel_pos",
            ".patch_embd",
            ".patch_merger",
            "a.rvq.codebook",
            "mm.a.code_embd",
        )
    )
)
_EXCLUDED_IK = ("ssm_x.weight", "ssm_dt.weight")
_ROUTER = "ffn_gate_inp.weight"
#: What a LoRA file's tensors are called: the name of the weight, and which factor of it this is.
_LORA = (".weight.lora_a", ".weight.lora_b")


def why_kept(
    tensor: TensorFacts, *, family: str = "mainline", leave_output_tensor: bool = False, router: bool = False
) -> str | None:
    """Why this tensor keeps its type and bytes, in a few words; None when it may be converted.

    ``family="ik"`` adds the names that ik_llama.cpp leaves alone. ``router=True`` lets ``ffn_gate_inp`` through, as its
    own option does. The factors of a LoRA file (``.lora_a``, ``.lora_b``) count as the weights that they belong to.
    """
    name = tensor.name
    for end in _LORA:
        name = name.removesuffix(end) + ".weight" if name.endswith(end) else name
    if tensor.type.kind == "int":
        return "integers are never converted"
    if tensor.type.kind in ("unknown", "internal"):
        return f"its type ({tensor.type.name}) can only be copied"
    if n_dims(tensor.shape) < 2:
        return "one-dimensional"
    if not name.endswith("weight"):
        return "name does not end in weight"
    excluded = _EXCLUDED.search(name)
    if excluded and not (router and excluded[0] == _ROUTER):
        return f"'{excluded[0]}' tensors are never quantized"
    if name in ("position_embd.weight", "token_types.weight"):
        return f"'{name}' is never quantized"
    if family == "ik":
        for part in _EXCLUDED_IK:
            if part in name:
                return f"'{part}' tensors are not quantized by ik_llama.cpp"
    if leave_output_tensor and name == "output.weight":
        return "--leave-output-tensor"
    return None


def n_dims(shape: Sequence[int]) -> int:
    """Dimensions that remain when the leading ones (ggml's trailing ones) are dropped, at least 1."""
    first = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    return max(1, len(shape) - first)
