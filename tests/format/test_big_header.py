"""A header with a long vocabulary is walked, not decoded: opening it takes little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support_gguf import PEAK, big_header

_OPEN = """
import json, sys
from gguftool import open_model
model = open_model(sys.argv[1])
tokens = model.metadata.entry("tokenizer.ggml.tokens")
print(json.dumps([peak(), len(model.tensors), tokens.count, tokens.head(1)]))
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "big.gguf"
    big_header(path)
    return path


def test_a_process_that_opens_it_stays_below_150_mb(big: Path) -> None:
    command = [sys.executable, "-c", PEAK + _OPEN, str(big)]
    peak, *found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found == [1000, 256_000, ["token000000"]]
    assert peak < 150e6


def test_strings_are_decoded_only_when_asked(big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gguftool import open_model
    from gguftool.format import metadata

    decoded: list[int] = []
    strings = metadata._strings
    monkeypatch.setattr(metadata, "_strings", lambda raw, n: (decoded.append(n), strings(raw, n))[1])
    with open_model(big) as model:
        assert "tokenizer.ggml.tokens" in model.metadata
        assert decoded == []
        assert model.metadata["tokenizer.ggml.tokens"][-1] == "token255999"
        assert decoded == [256_000]
