"""Entries that may stand in for a tensor that has none, because both see the same input.

ik_llama.cpp evaluates up and gate as one operation and records it under the name of up, so its files lack gate.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

#: Tensor kind to the kinds that see the same input, in the order in which ik_llama.cpp tries them.
_SAME_INPUT = {
    "ffn_up_exps": ("ffn_gate_up_exps",),
    "ffn_gate_exps": ("ffn_gate_up_exps", "ffn_up_exps"),
    "ffn_gate_up_exps": ("ffn_up_exps",),
    "ffn_gate": ("ffn_up",),
    "attn_v_b": ("attn_kv_b",),
    "attn_kv_b": ("attn_v_b",),
}


#: Kinds of one block that are multiplied with the same activations, wherever they exist.
_ONE_INPUT = (
    ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_q_a", "attn_kv_a_mqa"),
    ("cross_attn_k", "cross_attn_v"),
    ("ffn_up", "ffn_gate"),
    ("ffn_up_exps", "ffn_gate_exps", "ffn_gate_up_exps"),
    ("ffn_up_shexp", "ffn_gate_shexp"),
    ("ffn_up_chexps", "ffn_gate_chexps"),
)
_INPUT_OF = {kind: kinds for kinds in _ONE_INPUT for kind in kinds}


def same_input(name: str) -> tuple[str, ...]:
    """Names of the weights that see the same input as this one: query, key and value; up and gate. Its own is first.

    They may not exist in a model, and count only where their widths agree.
    """
    head, dot, kind = name.removesuffix(".weight").rpartition(".")
    kinds = _INPUT_OF.get(kind, ()) if name.endswith(".weight") else ()
    return name, *(f"{head}{dot}{other}.weight" for other in kinds if other != kind)


#: Kinds whose input is no residual stream: what their channels mean is up to each layer and each expert.
_OWN_CHANNELS = re.compile(r"_down(_|$)|_(output|out|o|b|x|dt)$|channel_mix_value$")


def has_own_channels(name: str) -> bool:
    """Whether channel j of this weight's input has nothing to do with channel j in other layers and experts.

    So it is behind attention and within the feed-forward network. The channels of a residual stream, which query, up or
    a router see, keep their meaning through the model.
    """
    return _OWN_CHANNELS.search(name.removesuffix(".weight").rpartition(".")[2]) is not None


def lookup(name: str, names: Container[str]) -> tuple[str, str | None] | None:
    """(entry, note) for a tensor: its own entry with no note, else one of the same input with a note that says so.

    None if there is neither.
    """
    if name in names:
        return name, None
    for candidate, kind, other in _candidates(name):
        if candidate in names:
            return candidate, f"{kind} takes the importances of {other}, which sees the same input"
    return None


def _candidates(name: str) -> Iterator[tuple[str, str, str]]:
    head, dot, kind = name.removesuffix(".weight").rpartition(".")
    if not name.endswith(".weight"):
        return
    for other in _SAME_INPUT.get(kind, ()):
        yield f"{head}{dot}{other}.weight", kind, other
