"""How many experts the tensors of a file of the older form have, which does not say."""

from __future__ import annotations

from collections.abc import Mapping

_SEE_ROUTER_INPUT = ("up_exps.weight", "gate_exps.weight", "gate_up_exps.weight")


def experts_by_routers(shapes: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Entry -> number of experts, for entries of one matrix, from the width of the layer's router.

    ``shapes`` are (n_mat, n_cols) by name. Router, up and gate see the same input, so that up is as many times wider as
    there are experts; down has as many.
    """
    found = {}
    for name, (known, n_cols) in shapes.items():
        head, dot, kind = name.rpartition(".ffn_")
        width = shapes.get(f"{head}.ffn_gate_inp.weight", (0, 0))[1]
        if not dot or known > 1 or not width or kind not in _SEE_ROUTER_INPUT:
            continue
        n_mat, rest = divmod(n_cols, width)
        if n_mat > 1 and not rest:
            found[name] = n_mat
            down = f"{head}.ffn_down_exps.weight"
            known, n_cols = shapes.get(down, (0, 0))
            if known == 1 and n_cols % n_mat == 0:
                found[down] = n_mat
    return found
