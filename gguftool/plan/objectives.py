"""What the search minimises for one tensor, where nobody says.

Types of one to three bits, IQ4, and the ik types up to six bits give rows their gain back (objective "unbiased"),
because a shrunken gate, query or key changes what the model does. Values, the attention's output and the feed-forward's
output are sums that enter the residual stream linearly: there the shrunken least-squares fit did better. KL divergence
of whole files to F16 over that of libllama's with the same types and imatrix, 60 chunks, geometric mean over the dense
and the mixture-of-experts model of the tests ("roles": as here, but ffn_down too with its gain):

    =======  =======  ========  =====  =======
    TYPE     imatrix  unbiased  roles  as here
    =======  =======  ========  =====  =======
    IQ1_S     1.454     0.981   0.972    0.903
    IQ1_M     1.294     0.879   0.856    0.820
    IQ2_XXS   1.181     0.985   0.965    0.940
    IQ2_XS    1.121     0.968   0.927    0.912
    IQ2_M     1.082     0.924   0.913    0.915
    Q2_K      1.066     0.880   0.861    0.860
    Q3_K_S    0.967     0.961   0.950    0.941
    IQ3_XXS   0.997        -    0.933    0.928
    IQ3_S     0.929     0.917   0.920    0.913
    IQ3_M     0.839        -    0.806    0.804
    IQ4_XS    0.947     0.944   0.943    0.941
    IQ4_NL    0.955     0.958   0.948    0.949
    =======  =======  ========  =====  =======

The ik types likewise; libllama has none of them, so their divergence is over that of objective
"imatrix" itself, 16 chunks (standard errors, paired over the same tokens, are about 0.005, of "ref" up to 0.03):

    =======  ========  =====  =======
    TYPE     unbiased  ref    as here
    =======  ========  =====  =======
    IQ1_KT      0.862      -    0.778
    IQ2_KT      0.723      -    0.715
    IQ2_KS      0.758      -    0.729
    IQ2_K       0.745      -    0.751
    IQ2_KL      0.878  0.975    0.872
    IQ3_KT      0.960      -    0.949
    IQ3_KS      0.945      -    0.944
    IQ3_K       0.946  0.935    0.938
    IQ4_KT      0.998      -    0.995
    IQ4_KSS     0.977  1.003    0.977
    IQ4_KS      0.997  1.029    0.993
    IQ4_K       0.988  1.042    0.985
    IQ5_KS          -  1.082    0.997
    IQ5_K       0.989  0.957    0.991
    IQ6_K           -      -    0.991
    =======  ========  =====  =======

Ternary types keep the plain fit: they are for models that were trained so, which it stores exactly.
"""

from __future__ import annotations

from gguftool.codecs.dispatch import default_objective
from gguftool.format.names import tensor_kind
from gguftool.format.quanttypes import QuantType

_LINEAR = ("attn_v", "attn_output", "ffn_down", "ffn_down_exps", "ffn_down_shexp")


def objective_for(name: str, type: QuantType) -> str:
    """The objective for a tensor of that name and target type, one of ``gguftool.codecs.dispatch.OBJECTIVES``."""
    wanted = default_objective(type)
    return "imatrix" if wanted == "unbiased" and tensor_kind(name) in _LINEAR else wanted
