"""The mixtures of ik_llama.cpp's own TYPE names (IQ4_KSS, IQ3_K, IQ2_KT ...), as pure functions of role and position.

Reproduced from the behaviour of its llama-quantize (August 2026); 184 recorded rows of that tool are the regression
test. Tensors are taken in (layer, name) order, the fork takes them in file order; only running counts can tell.
Published files are nearly always made with rules on top, so these are defaults, not advice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gguftool.format.names import sort_key
from gguftool.format.quanttypes import QuantType, type_by_name
from gguftool.recipe.facts import ModelFacts, TensorFacts, block_number
from gguftool.recipe.filetypes import FileType

_ROLES = ("attn_v.weight", "attn_k", "attn_q", "ffn_down", "attn_output.weight", "ffn_gate", "ffn_up")
_FFN = ("ffn_down", "ffn_gate", "ffn_up")
_BN = ("IQ1_BN", "IQ2_BN")
_OUTPUT = {  # TYPE: (output.weight, token_embd.weight when it serves as the output); "" = the base type
    **dict.fromkeys(["IQ2_K", "IQ2_KS", "IQ2_KL", "IQ3_K", "IQ3_KS", "IQ1_KT", "IQ2_KT", "IQ3_KT"], ("q5_K", "iq4_k")),
    **dict.fromkeys(["IQ4_KSS", "IQ4_KS", "IQ3_KL"], ("q6_K", "iq5_k")),
    **dict.fromkeys(["IQ4_K", "IQ5_K", "IQ5_KS", "IQ4_KT", "Q6_0", "IQ1_BN", "IQ2_BN"], ("q6_K", "q6_K")),
}
_O_EXPERTS = {"IQ2_KL": "iq4_ks"} | dict.fromkeys(
    ["IQ4_KSS", "IQ4_KS", "IQ4_K", "IQ5_KS", "IQ3_K", "IQ3_KS", "IQ3_KL", "IQ2_K", "IQ3_KT"], "q5_K"
)


def ik_mixture(
    file_type: FileType,
    facts: ModelFacts,
    tensors: Sequence[TensorFacts],
    has_imatrix: bool,
    *,
    tied: bool,
    output_type: QuantType | None = None,
) -> dict[str, QuantType]:
    """The mixture's type by name for ``tensors``, which are those that may be converted; see ``mixes.mixture``.

    ``tied`` says that the model has no ``output.weight``. The counts run over every tensor of a role, rules or not.
    """
    assert file_type.base is not None
    setting = _Setting(file_type.mixture, file_type.base, facts, has_imatrix, tied, output_type)
    seen: Counter[str] = Counter()
    found: dict[str, QuantType] = {}
    for tensor in sorted(tensors, key=lambda t: sort_key(t.name)):
        role = next((part for part in _ROLES if part in tensor.name), "")
        running = seen[role]
        seen[role] += 1
        layer = block_number(tensor.name) if role in _FFN and setting.experts > 1 else None
        name = _choose(setting, tensor, role, running if layer is None else layer, running)
        found[tensor.name] = name if isinstance(name, QuantType) else type_by_name(name) if name else setting.base
    return found


@dataclass(frozen=True, slots=True)
class _Setting:
    name: str
    base: QuantType
    facts: ModelFacts
    im: bool
    tied: bool
    output_type: QuantType | None

    @property
    def experts(self) -> int:
        return max(1, self.facts.n_expert)

    @property
    def n(self) -> int:
        return self.facts.n_layer

    @property
    def gqa(self) -> int:
        return self.facts.gqa

    @property
    def falcon(self) -> bool:
        return self.facts.architecture == "falcon"

    @property
    def large(self) -> bool:
        """The 70B class."""
        facts, layers = self.facts, self.facts.n_layer_source or self.facts.n_layer
        if facts.architecture == "llama":
            return layers == 80 and facts.n_head != facts.n_head_kv and facts.n_expert != 8
        return layers == 80 and facts.architecture in ("deci", "qwen2", "olmo")

    @property
    def medium(self) -> bool:
        """The 8B class."""
        facts, layers = self.facts, self.facts.n_layer_source or self.facts.n_layer
        if facts.architecture == "llama":
            wide = facts.n_vocab >= 40000 and facts.n_vocab != 49152
            return facts.n_expert != 8 and ((layers == 32 and wide) or layers == 36)
        if facts.architecture in ("qwen3", "qwen3vl"):
            return layers == 36 and facts.n_embd != 2560
        return layers == {"cohere2": 32, "mistral3": 34}.get(facts.architecture)

    @property
    def big_vocabulary(self) -> bool:
        return self.facts.n_vocab >= 127999 and (self.medium or self.large)

    def more(self, i: int) -> bool:
        return i < self.n // 8 or i >= 7 * self.n // 8 or (i - self.n // 8) % 3 == 2


def _choose(s: _Setting, tensor: TensorFacts, role: str, i: int, running: int) -> str | QuantType | None:
    name = tensor.name
    if name == "output.weight" or (s.tied and name == "token_embd.weight"):
        if s.output_type is not None:
            return s.output_type
        if s.falcon or tensor.n_cols % 256:
            return "q8_0"
        return _OUTPUT.get(s.name, ("", ""))[s.tied]
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "iq4_nl" if s.name in _BN else "iq3_s" if s.name == "IQ3_KT" else None
    if s.name == "IQ2_KS":
        return _iq2_ks(s, name, role, running)
    if s.name == "IQ2_KT":
        return _iq2_kt(s, name, role, i)
    if role == "attn_v.weight":
        return _attn_v(s)
    if role == "attn_k":
        return "q8_0" if s.experts >= 4 else None
    if role == "attn_q":
        return {"IQ5_K": "iq4_k", "IQ5_KS": "iq4_ks"}.get(s.name) if s.big_vocabulary else None
    if role == "ffn_down":
        return _ffn_down(s, i)
    if role == "attn_output.weight":
        return _attn_output(s)
    return "iq4_ks" if role in _FFN and s.name == "IQ3_KL" and s.more(i) else None


def _iq2_ks(s: _Setting, name: str, role: str, running: int) -> str | None:
    many = s.experts >= 8
    if role == "attn_v.weight":
        if s.gqa >= 4 or s.experts >= 4:
            return "iq4_k"
        return "iq3_k" if s.gqa >= 2 or s.experts >= 2 else "q2_K"
    if role in ("attn_k", "attn_q") and many:
        return "q4_K"
    if "attn_qkv.weight" in name:
        return "iq2_k"
    if role == "ffn_down":
        return "q2_K" if running < s.n // 8 else None
    return "q5_K" if role == "attn_output.weight" and s.experts >= 4 else None


def _iq2_kt(s: _Setting, name: str, role: str, i: int) -> str | None:
    many = s.experts >= 8
    if role == "attn_v.weight":
        if s.gqa >= 4 or s.experts >= 4:
            return "iq4_k"
        return "iq3_k" if s.gqa >= 2 else "q2_K"
    if role == "attn_k" and many:
        return "q4_K"
    if role in _FFN and many and i == 0:
        return "iq3_k"
    if role == "attn_q" and many:
        return "q4_K"
    if "attn_qkv.weight" in name:
        return "iq3_k"
    if "_shexp.weight" in name:
        return "iq4_k"
    if role == "ffn_down":
        return "iq3_k" if i < s.n // 8 else None
    if role == "attn_output.weight":
        return "q5_K" if s.experts >= 4 else "iq3_k"
    return None


def _attn_v(s: _Setting) -> str | None:
    if s.experts >= 4:
        return "q8_0"
    if s.large:
        return "iq5_k" if s.base.name == "iq3_k" else None
    always: Mapping[str, str] = {
        "IQ2_K": "iq4_k" if s.gqa >= 2 else "iq3_k",
        "IQ3_KT": "iq4_k" if s.gqa >= 4 else "iq3_k",
        "IQ4_KT": "iq5_k" if s.gqa >= 4 else "iq4_k",
        "IQ3_KL": "iq5_k" if s.gqa >= 2 else "iq4_k",
    }
    if s.name in always:
        return always[s.name]
    grouped = {"IQ3_K": "iq4_k", "IQ3_KS": "iq4_ks", "IQ2_KL": "iq4_ks"} | dict.fromkeys(
        ("IQ4_KSS", "IQ4_KS", "IQ4_K"), "iq5_k"
    )
    if s.gqa >= 2 and s.name in grouped:
        return grouped[s.name]
    return "iq6_k" if s.name in ("IQ5_K", "IQ5_KS") and s.big_vocabulary else None


def _ffn_down(s: _Setting, i: int) -> str | None:
    first = i < s.n // 8
    if s.name == "IQ3_KT" and not s.im:
        return "iq4_k" if first else "iq3_k"
    if s.name == "IQ3_KL":
        return "iq4_ks" if s.more(i) else None
    return "q5_K" if s.name in ("IQ4_KSS", "IQ4_KS") and first and not s.im else None


def _attn_output(s: _Setting) -> str | None:
    if s.falcon:
        return None
    if s.experts >= 4:
        return _O_EXPERTS.get(s.name)
    if s.name == "IQ3_KT":
        return "iq3_k" if s.gqa >= 4 else None
    return {"IQ2_K": "iq3_k", "IQ3_KL": "iq4_ks"}.get(s.name)
