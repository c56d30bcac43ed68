"""Positions, sizes and the order of rule options."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguftool.cli.words import order_of, parse_bytes, parse_threads, parse_words
from gguftool.errors import RecipeError, UsageError


@pytest.mark.parametrize(
    ("line", "dst", "type_name", "threads"),
    [
        ("in.gguf q4_k_m", None, "Q4_K_M", None),
        ("in.gguf out.gguf q4_k_m", "out.gguf", "Q4_K_M", None),
        ("in.gguf q4_k 8", None, "Q4_K_M", 8),
        ("in.gguf out.gguf IQ4_KSS 24", "out.gguf", "IQ4_KSS", 24),
        ("in.gguf 7B-model.gguf q8_0", "7B-model.gguf", "Q8_0", None),
        ("in.gguf 7 8", None, "Q8_0", 8),
        ("in.gguf 0", None, "F32", None),
        ("in.gguf out.gguf copy 0", "out.gguf", "COPY", None),
        ("in.gguf out.gguf 2 -3", "out.gguf", "Q4_0", None),
    ],
)
def test_positions(line: str, dst: str | None, type_name: str, threads: int | None) -> None:
    words = parse_words(line.split())
    assert words.src == Path("in.gguf") and words.dst == (Path(dst) if dst else None)
    assert (words.file_type.name, words.threads) == (type_name, threads)


@pytest.mark.parametrize("line", ["", "in.gguf", "in q4_0 8 9", "in out q4_0 8 9", "in out q4_0 x", "in q4_0 8x"])
def test_misuse(line: str) -> None:
    with pytest.raises(UsageError):
        parse_words(line.split())


@pytest.mark.parametrize("line", ["in out", "in out q4_z", "in 7x", "in out 4"])
def test_types_that_do_not_exist(line: str) -> None:
    with pytest.raises(RecipeError):
        parse_words(line.split())


@pytest.mark.parametrize(
    ("word", "nbytes"), [("1", 1), ("64k", 65536), ("256M", 1 << 28), ("256MiB", 1 << 28), ("1.5g", 3 << 29)]
)
def test_sizes(word: str, nbytes: int) -> None:
    assert parse_bytes(word) == nbytes


@pytest.mark.parametrize("word", ["", "0", "-1", "M", "5T", "1..5", "x", "9" * 400])
def test_no_sizes(word: str) -> None:
    with pytest.raises(UsageError):
        parse_bytes(word)


def test_threads() -> None:
    assert [parse_threads(w) for w in ("3", "0", "-2")] == [3, None, None]
    with pytest.raises(UsageError):
        parse_threads("two")


def test_order() -> None:
    line = "--b x --a=1 in --b y out -- --a"
    assert order_of(line.split(), ("--a", "--b")) == ["--b", "--a", "--b"]
