"""Which documents are taken: no duplicate, the shares that were asked for, a hold-out that is apart, one order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gguftool.corpus.mix import Mix, Source
from gguftool.corpus.select import Sieve, Unit, kept_apart, quotas, taken, units_of, woven
from gguftool.corpus.words import fingerprint, shingles, words


def text_of(seed: int, n_words: int = 60) -> str:
    letters = np.random.default_rng(seed).integers(97, 123, (n_words, 6), dtype=np.uint8)
    return " ".join(bytes(word).decode() for word in letters)


def units(texts: list[str], **options: object) -> tuple[list[Unit], tuple[int, int, int]]:
    source = Source("s", ("x",), **options)  # type: ignore[arg-type]
    found, tally = units_of(0, source, texts, Sieve(), 2)
    return found, (tally.read, tally.short, tally.duplicate)


def test_words_ignore_case_space_and_punctuation_and_part_scripts_without_spaces() -> None:
    assert words("Ein  FLUSS,\n(weit)") == words("ein Fluss weit")
    assert words("河は海へ") == list("河は海へ")
    assert words("2 + 3 = ...") == ["2", "3"] and words("++ --") == ["++", "--"]
    assert fingerprint(words("a b")) != fingerprint(words("ab"))


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 9))
def test_shingles_are_equal_where_the_words_are(found: list[str], width: int) -> None:
    hashes = shingles(found, width).tolist()
    sequences = [tuple(found[i : i + width]) for i in range(max(0, len(found) - width + 1))]
    assert len(hashes) == len(sequences)
    assert len(set(zip(hashes, sequences, strict=True))) == len(set(hashes)) == len(set(sequences))


def test_duplicates_and_short_ones_are_dropped() -> None:
    long = text_of(1)
    almost = long + " and a few words more at the end"
    other = text_of(2)
    found, counts = units([long, long.upper(), almost, "short", other], min_chars=10)
    assert counts == (5, 1, 2) and [unit.members for unit in found] == [(0,), (4,)]


def test_neighbours_are_joined() -> None:
    texts = [text_of(i, 10) for i in range(7)]
    found, counts = units(texts, join_chars=150)
    assert [unit.members for unit in found] == [(0, 1, 2), (3, 4, 5), (6,)] and counts == (7, 0, 0)
    assert found[0].nbytes == len("\n\n".join(texts[:3]).encode())


def mix_of(weights: list[float | None], repeats: int = 1, **options: object) -> Mix:
    sources = tuple(Source(str(i), ("x",), weight=w, repeats=repeats) for i, w in enumerate(weights))
    return Mix(Path("."), "m", sources, **options)  # type: ignore[arg-type]


def made(source: int, sizes: list[int]) -> list[Unit]:
    return [Unit(source, (i,), size, size // 6, b"%d %d" % (source, i)) for i, size in enumerate(sizes)]


def test_quotas() -> None:
    assert quotas(mix_of([None, None]), [300, 100]) == [300, 100]
    assert quotas(mix_of([3, 1]), [300, 400]) == [300, 100]
    assert quotas(mix_of([3, 1], size=40), [300, 400]) == [30, 10]
    assert quotas(mix_of([3, None, 1]), [300, 400, 0]) == [300, 100, 0]
    assert quotas(mix_of([1.0]), [0]) == [0]


sizes = st.lists(st.integers(60, 900), min_size=1, max_size=30)


@settings(max_examples=200)
@given(st.lists(sizes, min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 3), st.sampled_from([None, 5000]))
def test_taken_meets_the_quotas_and_repeats_no_more_than_asked(
    all_sizes: list[list[int]], seed: int, repeats: int, size: int | None
) -> None:
    mix = mix_of([float(i + 1) for i in range(len(all_sizes))], repeats, seed=seed, size=size, holdout=0.2)
    by_source = [made(i, found) for i, found in enumerate(all_sizes)]
    apart = kept_apart(mix, by_source, 2)
    for held, found in zip(apart, by_source, strict=True):
        assert sum(u.nbytes for u in held) <= 0.2 * sum(u.nbytes for u in found)
    rest = [[u for u in found if u not in held] for found, held in zip(by_source, apart, strict=True)]
    chosen = taken(mix, rest, 2)
    wanted = quotas(mix, [repeats * sum(u.nbytes + 2 for u in found) for found in rest])
    for found, quota, available in zip(chosen, wanted, rest, strict=True):
        assert all(found.count(unit) <= repeats for unit in found)
        total = sum(unit.nbytes + 2 for unit in found)
        assert total <= 2 * quota + 1
        missed = [u for u in available if found.count(u) < repeats]
        assert not missed or total + min(u.nbytes + 2 for u in missed) > quota
    order = woven(chosen)
    assert sorted(order, key=repr) == sorted((u for found in chosen for u in found), key=repr)


def test_every_beginning_of_the_corpus_holds_the_mix() -> None:
    order = woven([made(0, [100] * 50), made(1, [50] * 20)])
    for n in (14, 28, 42):
        assert abs(sum(unit.source for unit in order[:n]) - 2 * n / 7) <= 1


def test_the_choice_depends_on_the_seed_and_on_nothing_else() -> None:
    by_source = [made(0, [100] * 40)]
    first, again, other = (taken(mix_of([1.0], seed=s, size=900), by_source, 2) for s in (1, 1, 2))
    assert first == again != other
    assert taken(mix_of([1.0], seed=1, size=900), [by_source[0][::-1]], 2) == first
