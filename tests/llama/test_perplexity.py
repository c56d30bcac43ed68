"""Perplexity and divergence through libllama, against what llama-perplexity prints for the same model and text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gguftool.errors import UsageError
from gguftool.llama.perplexity import Estimate, divergence, perplexity
from gguftool.llama.runtime import RuntimeFailure

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODEL = EXAMPLES / "prose-llama-11m-f16.gguf"


def test_perplexity_is_llama_perplexitys(shared: Path) -> None:
    """60 chunks of 512: PPL 58.7789 +/- 1.4770 in the reference results, to the digits they print."""
    text = (shared / "text" / "wiki.test.raw").read_text()
    found = perplexity(MODEL, text, chunks=60)
    assert (found.n_tokens, found.n_chunks) == (15300, 60)
    assert found.ppl.value == pytest.approx(58.7789, abs=2e-3)
    assert found.ppl.error == pytest.approx(1.4770, abs=1e-3)


def test_a_model_does_not_differ_from_itself() -> None:
    found = divergence(MODEL, MODEL, (EXAMPLES / "prose.txt").read_text(), chunks=2)
    assert found.kld.value == 0 and found.rms_dp == 0 and found.same_top.value == 1
    assert found.ppl.value == found.ppl_base.value


def test_short_text_is_refused() -> None:
    with pytest.raises(UsageError, match="two chunks of 512"):
        perplexity(MODEL, "too short")


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF")
    with pytest.raises(RuntimeFailure, match=r"bad\.gguf: libllama does not load it"):
        perplexity(bad, "text")


def test_estimate_error_is_that_of_the_mean() -> None:
    samples = np.array([1.0, 2.0, 3.0, 4.0])
    found = Estimate.mean(samples)
    assert found.value == 2.5
    assert found.error == pytest.approx(samples.std(ddof=1) / 2)
