"""Kinds of layers that repeat: every p-th layer is of one kind, the rest of another.

Three phases occur. ``last``: layer i is special where (i + 1) mod p = 0; ``first``: where i mod p = 0; ``second``:
where i mod p = 1. p = 1 makes every layer special (``second``: none), p = 0 none. Instead of a number some programs
take an array with one truth value per layer, true for the *ordinary* kind (sliding, recurrent).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Value = int | float | tuple[int | float, ...]


@dataclass(frozen=True)
class Stack:
    """The layers of one model as its metadata describe them, and nothing else.

    ``n`` counts the layers, ``x`` the next-token layers among them, which come last. ``keys`` holds numbers and
    per-layer arrays under their names without the architecture's prefix.
    """

    arch: str
    n: int
    x: int
    keys: Mapping[str, Value] = field(default_factory=dict)

    def number(self, key: str, default: int = 0) -> int:
        """The key's value as an integer, or ``default`` where it is absent, an array or no integer."""
        value = self.keys.get(key, default)
        return default if isinstance(value, tuple | float) else int(value)

    def per_layer(self, key: str, default: int = 0) -> tuple[int, ...]:
        """One integer for each layer: an array's entries, missing ones as ``default``, or the scalar repeated."""
        value = self.keys.get(key, default)
        if not isinstance(value, tuple):
            return (self.number(key, default),) * self.n
        entries = [default if isinstance(v, float) else int(v) for v in value[: self.n]]
        return (*entries, *(default,) * (self.n - len(entries)))


@dataclass(frozen=True)
class Period:
    """How one aspect of a layer follows from its index, and which key says so.

    ``arrays``: ``no``; ``yes`` where every program takes an array instead of the number; ``newer`` where only
    programs after August 2026 do and older ones silently use the default period; ``only`` where there is no period.
    ``main_only``: next-token layers are always of the special kind. ``active`` false: every layer is special,
    ``when`` says so in words. ``drop``: the keys whose removal makes every layer special. ``least``: the smallest
    period that may be written (a model with a window but no sliding layer aborts libllama when a context is made,
    hence 2 there).
    """

    aspect: str
    key: str
    default: int
    special: str
    ordinary: str
    phase: str = "last"
    arrays: str = "no"
    array_key: str = ""
    main_only: bool = False
    active: Callable[[Stack], bool] = lambda stack: True
    drop: tuple[str, ...] = ()
    least: int = 1
    when: str = ""

    @property
    def list_key(self) -> str:
        """The key under which an array would stand."""
        return self.array_key or self.key

    def array(self, stack: Stack) -> tuple[int | float, ...] | None:
        """The array that decides, if one is there."""
        value = stack.keys.get(self.list_key)
        return value if isinstance(value, tuple) else None

    def kinds(self, stack: Stack) -> tuple[str, ...]:
        """The kind of each layer."""
        if not self.active(stack):
            return (self.special,) * stack.n
        array = self.array(stack)
        if array is not None or self.arrays == "only":
            is_special = tuple(not value for value in stack.per_layer(self.list_key))
        else:
            is_special = pattern(stack.number(self.key, self.default), stack.n, self.phase)
        kinds = [self.special if value else self.ordinary for value in is_special]
        if self.main_only and stack.x:
            kinds[stack.n - stack.x :] = [self.special] * stack.x
        return tuple(kinds)

    def rule(self, stack: Stack) -> str:
        """What decides, in words: the key and its value, or the default."""
        if self.array(stack) is not None:
            return f"{stack.arch}.{self.list_key}, an array"
        value = f"= {stack.number(self.key)}" if self.key in stack.keys else f"absent, so {self.default}"
        return f"{stack.arch}.{self.key} {value}{self.when and ', ' + self.when}"


def pattern(period: int, n: int, phase: str) -> tuple[bool, ...]:
    """For each of ``n`` layers whether it is the special one of its period."""
    if period == 0:
        return (False,) * n
    if phase == "last":
        return tuple((i + 1) % period == 0 for i in range(n))
    wanted = 0 if phase == "first" else 1
    return tuple(i % period == wanted for i in range(n))


def fitting_period(special: Sequence[bool], phase: str, least: int) -> int | None:
    """The smallest period from ``least`` to n + 1 whose pattern is ``special``, 0 if none is special; else None.

    Only one or two candidates can fit, as the first special layers give the period away.
    """
    n = len(special)
    places = [i for i, value in enumerate(special) if value]
    if phase == "last":
        guess = places[0] + 1 if places else n + 1
    elif not places:
        guess = 0
    else:
        start = 0 if phase == "first" else 1
        guess = places[1] - places[0] if len(places) > 1 else max(least, n - start)
    if guess and guess < least:
        return None
    if guess and len(places) == 1 and phase != "last":
        guess = max(guess, 1 if phase == "first" else 2)
    return guess if pattern(guess, n, phase) == tuple(special) else None
