"""What makes two texts the same: their words, whatever their case, white space and punctuation."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

import numpy as np
import numpy.typing as npt

#: Words, where words are written apart; single characters where they are not (Chinese, Japanese, Thai, Khmer ...).
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\ua960-\ua97f\uf900-\ufaff\U00020000-\U0003ffff]"
    r"|[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\ua960-\ua97f\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_STEP = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """The words of a text in order, in one case and one Unicode form; signs alone if it has no words."""
    normal = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(normal) or normal.split()


def fingerprint(found: list[str]) -> bytes:
    """16 bytes that two texts share if their words are the same."""
    return hashlib.blake2b(" ".join(found).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shingles(found: list[str], width: int) -> npt.NDArray[np.uint64]:
    """A hash, uint64, of every sequence of ``width`` words; of none if there are fewer."""
    n = len(found) - width + 1
    if n < 1:
        return np.empty(0, np.uint64)
    hashes = np.fromiter((_word_hash(word) for word in found), np.uint64, len(found))
    total = np.zeros(n, np.uint64)
    for i in range(width):
        total = total * _STEP + hashes[i : i + n]
    total ^= total >> np.uint64(29)
    return total * _STEP


@lru_cache(1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
