"""The mixtures of llama-quantize as pure functions: which tensors get more bits than the TYPE's base type, which fewer.

Upstream decides along the way: running counters, a decision at a time. Here the positions of all tensors are counted
first (``positions``), and then each tensor's type is a function of its position (``_choose``). Reproduced from the
behaviour of llama.cpp (August 2026): 420 recorded outcomes of its tool are the regression test.

"More bits" runs: the first eighth, the last eighth, and every third layer between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gguftool.format.names import sort_key
from gguftool.format.quanttypes import QuantType, type_by_name
from gguftool.recipe.facts import ModelFacts, TensorFacts, block_number, facts_of
from gguftool.recipe.filetypes import FileType, file_type_by_name
from gguftool.recipe.ikmixes import ik_mixture

__all__ = ["FileType", "ModelFacts", "TensorFacts", "category", "facts_of", "file_type_by_name", "mixture"]

OUTPUT, EMBD, V, K, Q, O, UP, GATE, DOWN, OTHER = ["output", "embd", "v", "k", "q", "o", "up", "gate", "down", "other"]  # noqa: E741
_BY_PART = (
    ("attn_qkv.weight", V),
    ("attn_kv_b.weight", V),
    ("attn_v.weight", V),
    ("attn_k.weight", K),
    ("attn_q.weight", Q),
    ("attn_output.weight", O),
    ("ffn_up", UP),
    ("ffn_gate", GATE),
    ("ffn_down", DOWN),
)
_VERY_LOW = frozenset(["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"])
_ROUGH_OUTPUT = _VERY_LOW | {"IQ3_XXS"}
_O_EIGHT_EXPERTS = frozenset(
    ["Q2_K", "IQ3_XS", "IQ3_XXS", "IQ3_S", "IQ3_M", "Q3_K_S", "Q3_K_M", "IQ4_NL", "IQ4_XS", "Q4_K_S", "Q4_K_M"]
)
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


def category(name: str) -> str:
    """The role that decides a tensor's type; fused qkv and the kv_b of latent attention count as V."""
    if name == "output.weight":
        return OUTPUT
    if name in _EMBEDDINGS:
        return EMBD
    return next((role for part, role in _BY_PART if part in name), OTHER)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a tensor stands among its like: ``i`` of ``n``, and ``running``, its place in the order of decisions."""

    i: int
    n: int
    running: int


def more(i: int, n: int) -> bool:
    """Whether the i-th of n is one of those that get more bits: first and last eighth, and every third between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def positions(
    facts: ModelFacts, tensors: Sequence[TensorFacts], uncounted: Collection[str] = frozenset()
) -> dict[str, Position]:
    """The position of every tensor by name, for the roles that are counted.

    V: among all tensors of the role. Feed-forward roles: among the layers; the layer number of the name where there
    are several experts, a running count otherwise. Tensors in ``uncounted`` do not move the counts on (upstream does
    that to tensors decided by rules and options, so that a rule moves the pattern of all later layers).
    """
    n_v = sum(category(t.name) == V for t in tensors)
    seen: Counter[str] = Counter()
    found: dict[str, Position] = {}
    for tensor in sorted(tensors, key=lambda t: sort_key(t.name)):
        role = category(tensor.name)
        running = seen[role]
        layer = block_number(tensor.name) if role in (UP, GATE, DOWN) and facts.n_expert > 1 else None
        found[tensor.name] = Position(running if layer is None else layer, n_v if role == V else facts.n_layer, running)
        if tensor.name not in uncounted:
            seen[role] += 1
    return found


def mixture(
    file_type: FileType,
    facts: ModelFacts,
    tensors: Sequence[TensorFacts],
    has_imatrix: bool,
    *,
    output_type: QuantType | None = None,
    eligible: Collection[str] | None = None,
    uncounted: Collection[str] = frozenset(),
) -> dict[str, QuantType]:
    """The mixture's type for every eligible tensor, by name; the row length is not looked at (but for the output's).

    ``tensors`` are all tensors of the output (they tell whether embeddings are tied), ``eligible`` the names that may
    be converted (None: all). ``output_type`` is the wish for the output matrix, which tied embeddings take too.
    ``uncounted`` as in ``positions``. TYPE COPY gives no types; F32, F16 and BF16 give their base everywhere.
    """
    if file_type.base is None:
        return {}
    names = {t.name for t in tensors}
    chosen = [t for t in tensors if eligible is None or t.name in eligible]
    if file_type.is_float:
        return {t.name: file_type.base for t in chosen}
    tied = "output.weight" not in names
    if file_type.family == "ik":
        return ik_mixture(file_type, facts, chosen, has_imatrix, tied=tied, output_type=output_type)
    skipped = names - {t.name for t in chosen}
    where = positions(facts, tensors, skipped | set(uncounted))
    setting = _Setting(file_type.mixture, file_type.base, facts, has_imatrix, tied, output_type)
    return {t.name: _choose(setting, t, where[t.name]) for t in chosen}


@dataclass(frozen=True, slots=True)
class _Setting:
    name: str
    base: QuantType
    facts: ModelFacts
    im: bool
    tied: bool
    output_type: QuantType | None

    @property
    def falcon(self) -> bool:
        return self.facts.architecture == "falcon"

    @property
    def experts(self) -> int:
        return self.facts.n_expert

    @property
    def large(self) -> bool:
        """The 70B class, whose attn_v is small beside the rest."""
        facts, layers = self.facts, self.facts.n_layer_source or self.facts.n_layer
        if facts.architecture == "llama":
            return layers == 80 and facts.n_head != facts.n_head_kv and facts.n_expert != 8
        return layers == {"qwen2": 80, "olmo": 80, "deci": 80, "jais2": 68}.get(facts.architecture)


def _choose(s: _Setting, tensor: TensorFacts, at: Position) -> QuantType:
    role = category(tensor.name)
    if role == OUTPUT or (role == EMBD and s.tied):
        return s.output_type or type_by_name(_output(s, tensor.n_cols))
    if s.name == "MXFP4_MOE":
        return type_by_name(_mxfp4_moe(s, tensor, role))
    if role == EMBD:
        name = _embedding(s.name)
    elif s.name in _VERY_LOW:
        name = _very_low(s, role, at)
    elif role == V:
        name = _attn_v(s, at)
    elif role == K:
        name = "q8_0" if s.experts == 8 else {"IQ3_XXS": "iq2_s", "IQ3_XS": "iq3_xxs"}.get(s.name)
    elif role == Q:
        name = {"IQ3_XXS": "iq2_s", "IQ3_XS": "iq3_xxs"}.get(s.name)
    elif role == O:
        name = _attn_output(s)
    elif role == DOWN:
        name = _ffn_down(s, at)
    elif role in (GATE, UP) and s.name == "IQ3_XS" and at.n // 8 <= at.i < 7 * at.n // 8:
        name = "iq3_xxs"
    else:
        name = None
    return s.base if name is None else type_by_name(name)


def _output(s: _Setting, n_cols: int) -> str:
    if s.name == "MXFP4_MOE" or s.falcon or n_cols % s.base.block_size:
        return "q8_0"
    if s.name in _ROUGH_OUTPUT:
        return "q5_K"
    return "q8_0" if s.base.name == "q8_0" else "q6_K"


def _mxfp4_moe(s: _Setting, tensor: TensorFacts, role: str) -> str:
    stacked = len(tensor.shape) > 2 and tensor.shape[-3] > 1
    if s.facts.architecture == "bailingmoe3":
        stacked = stacked and role in (UP, GATE, DOWN)
    return "mxfp4" if stacked else "q8_0"


def _embedding(name: str) -> str | None:
    if name in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"):
        return "q2_K"
    if name in ("IQ2_S", "IQ2_M", "IQ3_XXS"):
        return "iq3_s"
    return "q4_K" if name in ("TQ1_0", "TQ2_0", "Q2_0") else None


def _very_low(s: _Setting, role: str, at: Position) -> str | None:
    better = "iq3_s" if s.name in ("IQ2_S", "IQ2_M") else "q2_K"
    if role == V:
        return "q4_K" if s.facts.gqa >= 4 or s.experts >= 4 else better
    if role == K and s.experts == 8:
        return "q4_K"
    if role == DOWN:
        return better if at.running < at.n // 8 else None
    if role == O:
        if s.experts == 8:
            return "q5_K"
        return {"IQ1_S": "iq2_xxs", "IQ1_M": "iq2_xxs", "IQ2_S": "iq3_s", "IQ2_M": "iq3_s"}.get(s.name)
    return None


def _attn_v(s: _Setting, at: Position) -> str | None:
    if s.experts == 8:
        return "q8_0"
    name = _attn_v_by_type(s, at) or s.base.name
    return "q5_K" if s.large and name in ("q3_K", "q4_K") else name


def _attn_v_by_type(s: _Setting, at: Position) -> str | None:
    grouped = s.facts.gqa >= 4
    plain: Mapping[str, str | None] = {
        "Q2_K": "q4_K" if grouped else "q3_K",
        "Q2_K_S": "q4_K" if grouped else None,
        "IQ3_XXS": "q4_K" if grouped else "iq3_xxs" if s.im else "iq3_s",
        "IQ3_XS": "q4_K" if grouped else None,
        "IQ3_S": "q4_K" if grouped else None,
        "IQ3_M": "q4_K",
        "Q3_K_M": "q5_K" if at.i < 2 else "q4_K",
        "Q3_K_L": "q5_K",
        "IQ4_NL": "q5_K" if grouped else None,
        "IQ4_XS": "q5_K" if grouped else None,
        "Q4_K_M": "q6_K" if more(at.i, at.n) else None,
        "Q5_K_M": "q6_K" if more(at.i, at.n) else None,
        "Q4_K_S": "q5_K" if at.i < 4 else None,
    }
    return plain.get(s.name)


def _attn_output(s: _Setting) -> str | None:
    if s.falcon:
        return "q4_K" if s.name == "Q3_K_L" else None
    if s.experts == 8:
        return "q5_K" if s.name in _O_EIGHT_EXPERTS else None
    return {"Q2_K": "q3_K", "IQ3_XXS": "iq3_s", "IQ3_M": "q4_K", "Q3_K_M": "q4_K", "Q3_K_L": "q5_K"}.get(s.name)


def _ffn_down(s: _Setting, at: Position) -> str | None:
    first = at.i < at.n // 8
    dense_like: Mapping[str, str | None] = {
        "Q2_K": "q3_K",
        "Q2_K_S": "q4_K" if first else None,
        "IQ3_XXS": None if s.im else "q4_K" if first else "q3_K",
        "IQ3_M": "q4_K" if first or (s.experts == 8 and more(at.i, at.n)) else None,
        "Q3_K_M": "q5_K" if at.i < at.n // 16 else "q4_K",
        "Q3_K_L": "q5_K",
        "Q4_K_S": "q5_K" if first else None,
        "Q4_K_M": "q6_K" if more(at.i, at.n) else None,
        "Q5_K_M": "q6_K" if more(at.i, at.n) else None,
        "IQ4_NL": "q5_K" if first and not s.im else None,
        "IQ4_XS": "q5_K" if first and not s.im else None,
        "Q4_0": "q4_1" if first and s.im else None,
        "Q5_0": "q5_1" if first and s.im else None,
    }
    if s.falcon:
        sixteenth = at.i < at.n // 16
        many = more(at.i, at.n)
        own: Mapping[str, str | None] = {
            "Q3_K_M": "q5_K" if sixteenth else "q4_K" if many else "q3_K",
            "Q3_K_L": "q4_K",
            "Q4_K_S": None,
            "Q4_K_M": "q6_K" if sixteenth else "q5_K" if many else "q4_K",
        }
        return own[s.name] if s.name in own else dense_like.get(s.name)
    return dense_like.get(s.name)
