"""The layers of a model after some are taken out: which keys change, and what would go wrong.

``shrink`` proposes new keys, then asks the same functions of the index (``archfacts``) what each survivor would be
and compares. It never trusts its own proposal: whatever is not proven to stay the same is trouble.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from gguftool.plan.archfacts import COUNTS, aspects_of, periods_of, row_of
from gguftool.plan.periods import Period, Stack, Value, fitting_period

#: Arrays with one entry per layer, n or n - x of them. The loaders demand the length.
STRICT_ARRAYS = frozenset(
    (
        "attention.head_count",
        "attention.head_count_kv",
        "feed_forward_length",
        "attention.recurrent_layers",
        "swiglu_clamp_exp",
        "swiglu_clamp_shexp",
        "activation_sparsity_scale",
    )
)
#: The same where loaders take other lengths as well: missing entries are off, and only this one may go beyond n.
LOOSE_ARRAYS = frozenset(
    (
        "attention.sliding_window_pattern",
        "attention.rope_pattern",
        "attention.indexer.types",
        "deepstack_mapping",
        "attention.compress_ratios",
    )
)
OPEN_ENDED = "attention.compress_ratios"
SOFTMAX, SIGMOID = 1, 2
OLDER_MISREAD = "programs before autumn 2026 load such a file and run it with the wrong layers"


@dataclass(frozen=True)
class Shrunk:
    """The stack without the dropped layers, notes on it, and what speaks against it (empty: nothing)."""

    stack: Stack
    notes: tuple[str, ...]
    troubles: tuple[str, ...]


def filtered(count: int, dropped: Collection[int], n: int, *, open_ended: bool = False) -> list[int]:
    """Which of ``count`` entries stay: those of surviving layers, entries beyond n only if ``open_ended``."""
    return [i for i in range(count) if (i not in dropped if i < n else open_ended)]


@dataclass
class _Findings:
    """What turns up on the way: reasons to add to a refusal, notes on what was done, troubles of their own."""

    hints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


def shrink(stack: Stack, dropped: Collection[int], *, allow_layer_arrays: bool = False) -> Shrunk:
    """The stack without ``dropped``, with its counts, arrays and periods put right as far as they can be."""
    gone = frozenset(dropped)
    kept = [i for i in range(stack.n) if i not in gone]
    next_token = sum(i >= stack.n - stack.x for i in kept)
    new = Stack(stack.arch, len(kept), next_token, _filtered_keys(stack, gone))
    found = _Findings()
    for period in periods_of(stack):
        new = _refitted(period, stack, new, kept, allow_layer_arrays, found)
    new = _explicit_defaults(stack, new)
    change = _first_change(stack, new, kept)
    if change or found.hints:
        found.troubles.append("; ".join((*([change] if change else []), *found.hints)))
    found.troubles += _other_troubles(stack, new, gone)
    return Shrunk(new, tuple(found.notes), tuple(found.troubles))


def _filtered_keys(stack: Stack, gone: frozenset[int]) -> dict[str, Value]:
    keys: dict[str, Value] = {}
    for key, value in stack.keys.items():
        keys[key] = value
        if isinstance(value, tuple):
            keys[key] = tuple(value[i] for i in filtered(len(value), gone, stack.n, open_ended=key == OPEN_ENDED))
    for key, trailing in COUNTS:
        if key in keys:
            count = stack.number(key)
            inside = range(max(0, stack.n - count), stack.n) if trailing else range(min(count, stack.n))
            keys[key] = count - sum(i in gone for i in inside)
    return keys


def _refitted(
    period: Period, stack: Stack, new: Stack, kept: Sequence[int], allow_layer_arrays: bool, found: _Findings
) -> Stack:
    """The new stack with the number, array or absence that gives the survivors their old kinds, if there is one."""
    if not period.active(stack):
        return new
    before = period.kinds(stack)
    wanted = tuple(before[i] for i in kept)
    main = wanted[: new.n - new.x]
    if period.aspect == "attention" and period.ordinary in before and period.ordinary not in main:
        if period.drop:
            found.notes.append("only layers with full attention are left: the sliding window is removed")
            return replace(new, keys={k: v for k, v in new.keys.items() if k not in period.drop})
        found.hints.append(
            f"only layers with full attention would be left, and {stack.arch} with a window but no sliding layer "
            "aborts when it is run"
        )
        return new
    if period.special in before and period.special not in main and period.aspect == "attention":
        found.notes.append("no layer with full attention is left: nothing beyond the window is seen any more")
    if period.arrays == "only":
        return new
    if period.array(stack) is not None:
        if period.arrays != "newer":
            return new
        if period.kinds(_without(stack, period.list_key)) != before:
            found.notes.append(
                f"{stack.arch}.{period.list_key} is an array, which programs before autumn 2026 ignore here"
            )
            return new
        new = _without(new, period.list_key)
    return _numbered(period, new, wanted, allow_layer_arrays, found)


def _numbered(period: Period, new: Stack, wanted: tuple[str, ...], allow_layer_arrays: bool, found: _Findings) -> Stack:
    """The stack with the period as it is, another period, or an array, in this order, whichever gives ``wanted``."""
    if period.kinds(new) == wanted:
        return new
    main = new.n - new.x if period.main_only else new.n
    special = [kind == period.special for kind in wanted[:main]]
    fit = fitting_period(special, period.phase, period.least)
    if fit is not None:
        return replace(new, keys={**new.keys, period.key: fit})
    if period.arrays == "no":
        found.hints.append(f"no value of {new.arch}.{period.key} describes the survivors")
        return new
    n_entries = main if period.list_key == period.key else new.n
    entries = tuple(int(kind == period.ordinary) for kind in wanted[:n_entries])
    as_array = replace(new, keys={**new.keys, period.list_key: entries})
    if period.arrays == "yes":
        return as_array
    if allow_layer_arrays:
        found.notes.append(f"{new.arch}.{period.key} is now an array: {OLDER_MISREAD}")
        return as_array
    found.hints.append(f"no value of {new.arch}.{period.key} describes the survivors")
    return new


def _without(stack: Stack, key: str) -> Stack:
    return replace(stack, keys={k: v for k, v in stack.keys.items() if k != key})


def _explicit_defaults(stack: Stack, new: Stack) -> Stack:
    """The stack with those keys written out whose default hangs on the number of layers."""
    if stack.arch == "deepseek2" and not stack.number("expert_gating_func"):
        before = _default_gating(stack)
        if before != _default_gating(new):
            return replace(new, keys={**new.keys, "expert_gating_func": before})
    if stack.arch == "minicpm" and "residual_scale" not in stack.keys:
        return replace(new, keys={**new.keys, "residual_scale": 1.4 / stack.n**0.5})
    return new


def _default_gating(stack: Stack) -> int:
    return SIGMOID if stack.n in (47, 48) and stack.number("vocab_size") == 154880 else SOFTMAX


def _first_change(stack: Stack, new: Stack, kept: Sequence[int]) -> str | None:
    """The first survivor whose kind would not stay, in words; None if all stay what they are."""
    first: tuple[int, str] | None = None
    for (name, rule, before), (_, _, after) in zip(aspects_of(stack), aspects_of(new), strict=True):
        for j, i in enumerate(kept):
            if first and j >= first[0]:
                break
            if after[j] != before[i]:
                first = j, f"layer {i} (then {j}) would change its {name} from {before[i]} to {after[j]}: {rule}"
    return first[1] if first else None


def _other_troubles(stack: Stack, new: Stack, gone: frozenset[int]) -> list[str]:
    """What no survivor shows: layers that may not go, kinds that vanish, numbers of layers that mean something."""
    row = row_of(stack.arch)
    troubles = []
    if new.n - new.x <= 0:
        troubles.append("no layer would be left" if not new.n else "only next-token layers would be left")
    fixed = [i for i in sorted(gone) if i < row.fixed(stack)]
    if fixed:
        troubles.append(f"layer {fixed[0]} cannot go: {row.fixed_why}")
    if row.hybrid and new.n:
        before, after = (_main_mixers(s) for s in (stack, new))
        for kind in row.hybrid:
            if kind in before and kind not in after:
                troubles.append(f"no {kind} layer would be left, and {stack.arch} aborts without one when it is run")
    for name, total in row.totals:
        if total(stack) != total(new):
            troubles.append(
                f"with {new.n} instead of {stack.n} layers {stack.arch} would change its {name} from {total(stack)} "
                f"to {total(new)}"
            )
    lost = _vision_inputs(stack) - _vision_inputs(new)
    if lost:
        troubles.append(f"{stack.arch}.deepstack_mapping would lose vision input {min(lost)}")
    return troubles


def _main_mixers(stack: Stack) -> set[str]:
    return {k for name, _, kinds in aspects_of(stack) if name == "mixer" for k in kinds[: stack.n - stack.x]}


def _vision_inputs(stack: Stack) -> set[int | float]:
    mapping = stack.keys.get("deepstack_mapping")
    return {value for value in mapping if value >= 0} if isinstance(mapping, tuple) else set()
