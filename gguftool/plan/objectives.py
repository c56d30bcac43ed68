"""What the search minimises for one tensor, where nobody says.

Types of two and three bits give rows their gain back (objective "unbiased"), because a shrunken gate, query or key
changes what the model does. Values and the attention's output are averages that enter the residual stream linearly:
there the shrunken least-squares fit did better. KL divergence of pure files to F16 over that of libllama's, 30 chunks,
on the dense and on the mixture-of-experts model of the tests:

    ============  ===========  =============  ===========  =============  =======
    objective     Q2_K dense   Q2_K experts   Q3_K dense   Q3_K experts   geomean
    imatrix       1.038        1.017          0.951        0.973          0.994
    ref           1.061        0.928          0.977        0.979          0.985
    unbiased      1.124        0.902          0.999        0.959          0.993
    as here       1.041        0.916          0.942        0.971          0.966
    ============  ===========  =============  ===========  =============  =======
"""

from __future__ import annotations

from gguftool.codecs.dispatch import default_objective
from gguftool.format.names import tensor_kind
from gguftool.format.quanttypes import QuantType

_AVERAGED = ("attn_v", "attn_output")


def objective_for(name: str, type: QuantType) -> str:
    """The objective for a tensor of that name and target type, one of ``gguftool.codecs.dispatch.OBJECTIVES``."""
    wanted = default_objective(type)
    return "imatrix" if wanted == "unbiased" and tensor_kind(name) in _AVERAGED else wanted
