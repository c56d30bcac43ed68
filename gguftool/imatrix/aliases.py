"""Entries that may stand in for a tensor that has none, because both see the same input.

ik_llama.cpp evaluates up and gate as one operation and records it under the name of up, so its files lack gate.
"""

from __future__ import annotations

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
