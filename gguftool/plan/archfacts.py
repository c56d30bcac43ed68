"""What a layer is, as a function of its index, in every architecture where the index decides anything.

A file says little about the kind of a layer. Programs derive it from the layer's number: every sixth one looks at
the whole context, the first three are dense, the last ten borrow another layer's keys and values. Pruning shifts the
numbers, so the same functions are applied here before and after: a survivor's kinds must stay the same.

Source: loaders and graph builders of llama.cpp (August 2026), confirmed by running tiny models through libllama.
``ROWS`` names the architectures with such rules, ``PLAIN`` those known to have none. Of all others nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gguftool.plan.periods import Period, Stack

SWP = "attention.sliding_window_pattern"
SW = "attention.sliding_window"
DENSE = "leading_dense_block_count"
STEP = "interleave_moe_layer_step"
MOE_EVERY = "moe_every_n_layers"
INTERVAL = "full_attention_interval"
HEADS_KV = "attention.head_count_kv"
SHARED_KV = "attention.shared_kv_layers"

#: Numbers of layers at one end of the stack: the key, and whether they are the last ones.
COUNTS = ((DENSE, False), ("hash_layer_count", False), (SHARED_KV, True), ("nextn_predict_layers", True))

#: Scalars that code a position; where no row explains them, the place in the period must not change.
PERIOD_KEYS = (SWP, STEP, INTERVAL)


@dataclass(frozen=True)
class Aspect:
    """One property of a layer that hangs on its index: its kinds, or None where the model does not have it."""

    name: str
    rule: str
    kinds: Callable[[Stack], tuple[str, ...] | None]


@dataclass(frozen=True)
class Row:
    """All that is known of one architecture.

    ``fixed`` gives how many of the first layers may not go, ``fixed_why`` the reason. ``totals`` give, under a
    name, what hangs on the number of layers. ``hybrid``: kinds of the aspect "mixer" of which none may vanish.
    """

    periods: tuple[Period, ...] = ()
    aspects: tuple[Aspect, ...] = ()
    fixed: Callable[[Stack], int] = lambda stack: 0
    fixed_why: str = ""
    totals: tuple[tuple[str, Callable[[Stack], str]], ...] = ()
    hybrid: tuple[str, ...] = ()


def _window(stack: Stack) -> bool:
    return stack.number(SW) > 0


def _swa(
    default: int,
    phase: str = "last",
    *,
    arrays: str = "newer",
    active: Callable[[Stack], bool] = lambda stack: True,
    drop: bool = False,
    main_only: bool = False,
    when: str = "",
) -> Period:
    keys = (SW, SWP) if drop else ()
    return Period("attention", SWP, default, "full", "sliding", phase, arrays, "", main_only, active, keys, 2, when)


def _recurrent(default: int) -> Period:
    return Period(
        "mixer", INTERVAL, default, "attention", "recurrent", "last", "yes", "attention.recurrent_layers", True
    )


def _every_fourth_without_rope(first: bool, switch: Callable[[Stack], bool]) -> Aspect:
    def kinds(stack: Stack) -> tuple[str, ...] | None:
        if not switch(stack):
            return None
        return tuple("no rope" if (i + (not first)) % 4 == 0 else "rope" for i in range(stack.n))

    return Aspect("position encoding", "hard-coded: every fourth layer has no rope", kinds)


def _leading_dense(stack: Stack) -> tuple[str, ...] | None:
    if DENSE not in stack.keys:
        return None
    count = stack.number(DENSE)
    return tuple("dense" if i < count else "MoE" for i in range(stack.n))


def _ernie(stack: Stack) -> tuple[str, ...] | None:
    count, step = stack.number(DENSE), max(1, stack.number(STEP, 1))
    return tuple("MoE" if i >= count and (i + 1) % step == 0 else "dense" for i in range(stack.n))


def _routing(stack: Stack) -> tuple[str, ...] | None:
    if "hash_layer_count" not in stack.keys:
        return None
    count = stack.number("hash_layer_count")
    return tuple("by token id" if i < count else "by router" for i in range(stack.n))


def _next_token(stack: Stack) -> tuple[str, ...] | None:
    if "nextn_predict_layers" not in stack.keys:
        return None
    main = stack.n - stack.x
    return tuple("main" if i < main else f"next-token {i - main + 1}" for i in range(stack.n))


def _rescaled(stack: Stack) -> tuple[str, ...] | None:
    period = stack.number("rescale_every_n_layers")
    return tuple(f"after {i // period} halvings" for i in range(stack.n)) if period > 0 else None


def _deepstack(stack: Stack) -> tuple[str, ...] | None:
    count = stack.number("n_deepstack_layers")
    return tuple(f"input {i}" if i < count else "no input" for i in range(stack.n)) if count else None


def _cohere2moe_rope(stack: Stack) -> tuple[str, ...] | None:
    attention = _COHERE2MOE.kinds(stack)
    dense = stack.number(DENSE)
    return tuple("rope" if kind == "sliding" or i < dense else "no rope" for i, kind in enumerate(attention))


def _gemma3n_kv(stack: Stack) -> tuple[str, ...] | None:
    return tuple(
        "own" if i < 20 else f"reuses layer {18 if kind == 'sliding' else 19}"
        for i, kind in enumerate(_GEMMA3N.kinds(stack))
    )


def kv_owner(stack: Stack, layer: int) -> int | None:
    """The layer whose keys and values a gemma4 ``layer`` reads, None if its own."""
    owners = stack.n - stack.number(SHARED_KV)
    if layer < owners:
        return None
    return max(0, owners - (2 if _ARRAY_ONLY.kinds(stack)[layer] == "sliding" else 1))


def _gemma4_kv(stack: Stack) -> tuple[str, ...] | None:
    if SHARED_KV not in stack.keys:
        return None
    attention, heads = _ARRAY_ONLY.kinds(stack), stack.per_layer(HEADS_KV)
    owners = stack.n - stack.number(SHARED_KV)
    kinds = ["own"] * min(owners, stack.n)
    for i in range(max(0, owners), stack.n):
        owner = max(0, owners - (2 if attention[i] == "sliding" else 1))
        kinds.append(f"reuses a {attention[owner]} layer of {heads[owner]} KV heads")
    return tuple(kinds)


def _heads_mixer(stack: Stack) -> tuple[str, ...] | None:
    return tuple("attention" if heads else "recurrent" for heads in stack.per_layer(HEADS_KV, 1))


def _nemotron_mixer(stack: Stack) -> tuple[str, ...] | None:
    heads, widths = stack.per_layer(HEADS_KV, 1), stack.per_layer("feed_forward_length")
    return tuple(
        "attention" if h > 0 else "FFN" if width else "recurrent" for h, width in zip(heads, widths, strict=True)
    )


def _residual_mixing(stack: Stack) -> tuple[str, ...] | None:
    size = stack.number("attn_res.block_size") or stack.number("attn_res_block_size")
    return tuple("mixes" if i % size == 0 else "adds" for i in range(stack.n)) if size else None


def _built_in_indexer(stack: Stack) -> tuple[str, ...] | None:
    if stack.number("context_length") < 1 << 20 or "attention.indexer.types" in stack.keys:
        return None
    main = stack.n - stack.x
    return tuple(f"entry {i}" if i < main else "no entry" for i in range(stack.n))


def _attention_scale(special: int) -> tuple[str, Callable[[Stack], str]]:
    def scale(stack: Stack) -> str:
        head = stack.number("attention.key_length")
        heads = max(1, stack.per_layer("attention.head_count", 1)[0])
        width = stack.number("embedding_length") / heads
        return f"1/sqrt({width:g})" if stack.n == special else f"1/sqrt({head or width:g})"

    return f"attention scale (another one with exactly {special} layers)", scale


def _baichuan(stack: Stack) -> str:
    return {32: "rope", 40: "ALiBi"}.get(stack.n, "none")


def _deepseek2_lite(stack: Stack) -> str:
    def lite(n: int) -> bool:
        return n in (26, 27) or (n == 48 and stack.number("vocab_size") == 128256)

    return "lite, without attention.q_lora_rank" if lite(stack.n) or lite(stack.n - stack.x) else "full"


_COHERE2MOE = _swa(4, "first", arrays="yes", main_only=True)
_GEMMA3N = _swa(5)
_ARRAY_ONLY = _swa(0, arrays="only")
_LLAMA4 = _swa(4, active=lambda stack: stack.number(SW, 1) != 0)
_LAST4 = _swa(4)
_GRANITE_ROPE = Aspect(
    "position encoding",
    "attention.rope_pattern",
    lambda stack: (
        tuple(f"rope {value}" for value in stack.per_layer("attention.rope_pattern"))
        if "attention.rope_pattern" in stack.keys
        else None
    ),
)
_HEADS = Row(
    aspects=(Aspect("mixer", f"{HEADS_KV}: 0 = recurrent or convolution", _heads_mixer),),
    hybrid=("attention", "recurrent"),
)
_QWEN3NEXT = Row((_recurrent(4),), hybrid=("attention", "recurrent"))
_NEMOTRON_H = Row(
    aspects=(Aspect("mixer", f"{HEADS_KV} and feed_forward_length", _nemotron_mixer),),
    hybrid=("attention", "recurrent"),
)
_ARRAY_ROW = Row((_ARRAY_ONLY,))
_FIRST_VALUE = Row(fixed=lambda stack: 1, fixed_why="its values are mixed into every later layer")

#: Rules of all architectures, whatever their name; each applies where its key is present.
COMMON = (
    Aspect("layer", "nextn_predict_layers: the last layers of the stack", _next_token),
    Aspect("expert routing", "hash_layer_count", _routing),
    Aspect("residual", "rescale_every_n_layers; stored output weights are divided accordingly", _rescaled),
    Aspect("vision features", "n_deepstack_layers: the first layers add what the mmproj file delivers", _deepstack),
)
LEADING_DENSE = Aspect("feed-forward", DENSE, _leading_dense)
MOE_PERIOD = Period("feed-forward (experts)", MOE_EVERY, 0, "MoE", "dense", "second")

ROWS: dict[str, Row] = {
    "gemma2": Row((_swa(2),), totals=(_attention_scale(46),)),
    "gemma3": Row((_swa(6, active=_window, drop=True),), totals=(_attention_scale(62),)),
    "gemma-embedding": Row((_swa(6),)),
    "gemma3n": Row(
        (_GEMMA3N,),
        (
            Aspect("KV cache", "hard-coded: layers from 20 on reuse layer 18 (sliding) or 19 (full)", _gemma3n_kv),
            Aspect(
                "activation",
                "hard-coded: layers 0 to 9 are sparse",
                lambda stack: tuple("sparse" if i < 10 else "dense" for i in range(stack.n)),
            ),
        ),
        fixed=lambda stack: 20,
        fixed_why="it is one of the first 20, which own keys and values by hard-coded number",
    ),
    "gemma4": Row((_ARRAY_ONLY,), (Aspect("KV cache", f"{SHARED_KV}, counted from the last owners", _gemma4_kv),)),
    "cohere2": Row((_LAST4,)),
    "cohere2moe": Row(
        (_COHERE2MOE,),
        (Aspect("position encoding", f"rope on sliding layers and the first {DENSE}", _cohere2moe_rope),),
    ),
    "gpt-oss": Row((_swa(2),)),
    "llama4": Row(
        (_LLAMA4, Period("feed-forward", STEP, 0, "MoE", "dense")),
        (_every_fourth_without_rope(False, lambda stack: stack.number(SW, 1) != 0),),
    ),
    "exaone4": Row((_swa(4, active=lambda stack: stack.n == 64, when="and only with exactly 64 layers"),)),
    "exaone-moe": Row((_LAST4,)),
    "olmo2": Row((_swa(4, active=_window, drop=True),)),
    "plamo3": Row((_swa(8, active=_window, drop=True),)),
    "afmoe": Row((_swa(4, active=_window),), (_every_fourth_without_rope(False, lambda stack: True),)),
    "smallthinker": Row((_swa(4, "first", active=_window),), (_every_fourth_without_rope(True, _window),)),
    "laguna": Row((_swa(4, "first", active=_window, drop=True),)),
    "modern-bert": Row((_swa(3, "first", active=_window, drop=True),)),
    "muse-glimmer": Row((_swa(4, arrays="yes", main_only=True),)),
    "mellum": Row((_swa(4, arrays="yes", active=_window, drop=True),)),
    **dict.fromkeys(("mimo2", "step35", "dots3note", "dflash"), _ARRAY_ROW),
    "granite-swa": Row((_ARRAY_ONLY,), (_GRANITE_ROPE,)),
    "smollm3": Row(aspects=(_every_fourth_without_rope(False, lambda stack: True),)),
    "deepseek4": Row(),
    "phi3": Row(),
    "qwen3next": _QWEN3NEXT,
    "qwen35": _QWEN3NEXT,
    "qwen35moe": _QWEN3NEXT,
    "minimax-01": Row((_recurrent(8),), hybrid=("attention", "recurrent")),
    **dict.fromkeys(("lfm2", "lfm2moe", "jamba", "plamo2", "granite-hybrid", "kimi-linear", "bailingmoe3"), _HEADS),
    "kimi-k3": Row(
        aspects=(
            *_HEADS.aspects,
            Aspect("residual", "attn_res.block_size: the first layer of a block mixes", _residual_mixing),
        ),
        hybrid=_HEADS.hybrid,
    ),
    "nemotron-h": _NEMOTRON_H,
    "nemotron-h-moe": _NEMOTRON_H,
    "ernie4_5-moe": Row(aspects=(Aspect("feed-forward", f"{DENSE} and {STEP}", _ernie),)),
    "glm-dsa": Row(aspects=(Aspect("sparse attention", "a built-in table by layer number", _built_in_indexer),)),
    "qwen3vl": Row(fixed=lambda stack: stack.number("n_deepstack_layers"), fixed_why="it takes vision features"),
    "qwen3vlmoe": Row(fixed=lambda stack: stack.number("n_deepstack_layers"), fixed_why="it takes vision features"),
    "baichuan": Row(totals=(("position encoding (32 layers: rope, 40: ALiBi, else none)", _baichuan),)),
    "deepseek2": Row(totals=(("form (lite with 26 or 27 layers)", _deepseek2_lite),)),
    "rwkv7": _FIRST_VALUE,
    "arwkv7": _FIRST_VALUE,
}

_PLAIN = (
    "apertus arcee arctic bailingmoe bailingmoe2 bert bitnet bloom chameleon chatglm codeshell cogvlm command-r dbrx "
    "deci deepseek deepseek2-ocr deepseek32 dots1 dream ernie4_5 eurobert exaone falcon falcon-h1 gemma glm4 glm4moe "
    "gpt2 gptj gptneox granite granitemoe grok grovemoe hunyuan-dense hunyuan-moe hunyuan_vl internlm2 jais jais2 "
    "jina-bert-v2 jina-bert-v3 llada llada-moe llama llama-embed maincoder mamba mamba2 minicpm minicpm3 minimax-m2 "
    "minimax-m3 mistral3 mistral4 mpt nemotron neo-bert nomic-bert nomic-bert-moe olmo olmoe openelm orion paddleocr "
    "pangu-embedded phi2 phimoe plamo plm qwen qwen2 qwen2moe qwen2vl qwen3 qwen3moe refact rnd1 rwkv6 rwkv6qwen2 "
    "seed_oss stablelm starcoder starcoder2 t5 t5encoder xverse"
)
#: Architectures whose layers are all alike, or differ by arrays, counts and tensors alone.
PLAIN = frozenset(_PLAIN.split())


def _plain_name(arch: str) -> str:
    return arch.replace("-", "").replace("_", "")


_BY_NAME = {_plain_name(name): row for name, row in ROWS.items()}
_PLAIN_NAMES = frozenset(_plain_name(name) for name in PLAIN)


def known(arch: str) -> bool:
    """Whether the table says anything of this architecture, if only that its layers are alike."""
    return _plain_name(arch) in _BY_NAME or _plain_name(arch) in _PLAIN_NAMES


def row_of(arch: str) -> Row:
    """The rules of an architecture; an empty row where there are none. Dashes and underscores are the same."""
    return _BY_NAME.get(_plain_name(arch), Row())


def aspects_of(stack: Stack) -> list[tuple[str, str, tuple[str, ...]]]:
    """Every aspect of the stack that hangs on the index: its name, the rule in words, the kind of each layer."""
    row = row_of(stack.arch)
    found = [(p.aspect, p.rule(stack), p.kinds(stack)) for p in periods_of(stack)]
    explained = {name for name, _, _ in found} | {a.name for a in row.aspects}
    rules = [*row.aspects, *COMMON]
    if LEADING_DENSE.name not in explained:
        rules.append(LEADING_DENSE)
    for aspect in rules:
        kinds = aspect.kinds(stack)
        if kinds is not None:
            found.append((aspect.name, aspect.rule, kinds))
    return found + _unexplained(stack)


def periods_of(stack: Stack) -> tuple[Period, ...]:
    """The periods that act on this stack."""
    periods = row_of(stack.arch).periods
    return (*periods, MOE_PERIOD) if MOE_EVERY in stack.keys else periods


def _unexplained(stack: Stack) -> list[tuple[str, str, tuple[str, ...]]]:
    """Periods that no row explains: whichever layer they single out, its place in the period must not change."""
    if _plain_name(stack.arch) in ("phi3", "deepseek4", "ernie45moe"):
        return []
    explained = {p.key for p in row_of(stack.arch).periods}
    found = []
    for key in PERIOD_KEYS:
        period = stack.number(key)
        if period > 1 and key not in explained:
            kinds = tuple(f"place {i % period} of {period}" for i in range(stack.n))
            found.append(("place in the period", f"{stack.arch}.{key} = {period}", kinds))
    return found
