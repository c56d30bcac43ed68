"""The mixes in calibration/ can be read, and the one that needs no download gives a corpus of all it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguftool.corpus.documents import files_of
from gguftool.corpus.mix import MixError, read_mix
from gguftool.verbs.calibration import build_calibration

FOLDER = Path(__file__).parents[2] / "calibration"
MIXES = sorted(FOLDER.glob("*.toml"))


@pytest.mark.parametrize("path", MIXES, ids=lambda path: path.stem)
def test_a_mix_names_licence_and_origin_of_every_source(path: Path) -> None:
    mix = read_mix(path)
    assert mix.about and path.name in (FOLDER / "README.md").read_text("utf-8")
    for source in mix.sources:
        assert source.licence
        if path.stem == "offline":
            assert files_of(source, mix.folder)
        else:
            with pytest.raises(MixError, match="no file"):
                files_of(source, mix.folder)


def test_the_offline_mix(tmp_path: Path) -> None:
    found = build_calibration(FOLDER / "offline.toml", tmp_path / "calib.txt")
    assert not found.warnings
    assert found.nbytes > 200_000 and found.holdout_nbytes > 12_000
    assert all(source.used and not source.duplicate for source in found.sources)
    corpus = (tmp_path / "calib.txt").read_text("utf-8")
    assert "tool_calls" not in corpus and '"name": "get_forecast"' in corpus
    whole = corpus + (tmp_path / "calib.holdout.txt").read_text("utf-8")
    assert all(letters in whole for letters in ("def ", "Straße", "的", "の", "ال", "क", "ვ", "한", "<tool_call>"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("texts/*/*.jsonl")), ids=lambda path: path.stem)
def test_conversations_are_well_formed(path: Path) -> None:
    for line in path.read_text("utf-8").splitlines():
        open_calls = 0
        for message in json.loads(line)["messages"]:
            assert message["role"] in ("system", "user", "assistant", "tool")
            if message["role"] == "tool":
                open_calls -= 1
            assert open_calls >= 0 and (message.get("content") or message.get("tool_calls"))
            for call in message.get("tool_calls", ()):
                json.loads(call["function"]["arguments"])
                open_calls += 1
        assert open_calls == 0
