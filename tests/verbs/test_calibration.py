"""A corpus is built whole or not at all, the same way every time, and its hold-out is no part of it."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path

import pytest

from gguftool.corpus.mix import MixError
from gguftool.errors import UsageError
from gguftool.verbs import calibration
from gguftool.verbs.calibration import build_calibration

MIX = """
[mix]
name = "two"
size = "60 KB"
holdout = 0.1
[[source]]
name = "lines"
path = "lines.txt"
split = "line"
weight = 3
licence = "CC0-1.0"
[[source]]
name = "records"
path = "*.jsonl"
weight = 1
repeats = 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [" ".join(f"w{(i * 7919 + j * j) % 10007}" for j in range(30)) for i in range(600)]
    (tmp_path / "lines.txt").write_text("\n".join([*lines, *lines[:50]]))
    records = [{"text": " ".join(f"r{i}x{j}" for j in range(40)) + "\nü."} for i in range(30)]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "mix.toml").write_text(MIX)
    return tmp_path


def sequences(text: str) -> set[tuple[str, ...]]:
    found = re.findall(r"\w+", text)
    return {tuple(found[i : i + 13]) for i in range(len(found) - 12)}


@pytest.mark.parametrize("stretch", [1, 200, 1 << 20])
def test_no_row_of_words_over_the_joint_of_two_documents_is_shared_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    """Documents of few words out of few, and such as are two others in a row: what a corpus holds by chance alone."""
    monkeypatch.setattr(calibration, "_STRETCH", stretch)
    shared = lost = 0
    for seed in range(12):
        rng = random.Random(seed)
        lines = [" ".join(rng.choices("abcdef", k=rng.choice([2, 5, 7, 9, 14]))) for _ in range(120)]
        lines += [" ".join(rng.sample(lines, 2)) for _ in range(40)]
        (tmp_path / "lines.txt").write_text("\n".join(lines))
        separator, repeats = rng.choice([" ", r"\n\n", " and then "]), rng.choice([1, 3])
        (tmp_path / "mix.toml").write_text(
            f'[mix]\nholdout = 0.4\nseed = {seed}\nseparator = "{separator}"\n'
            f'[[source]]\nname = "lines"\npath = "lines.txt"\nsplit = "line"\nrepeats = {repeats}\n'
        )
        found = build_calibration(tmp_path / "mix.toml", tmp_path / "out.txt", overwrite=True)
        held = sequences((tmp_path / "out.holdout.txt").read_text())
        shared += len(sequences((tmp_path / "out.txt").read_text()) & held)
        lost += found.sources[0].overlapping
        assert held
    assert shared == 0 and lost > 0


def test_the_mix_itself_is_not_overwritten(folder: Path) -> None:
    before = (folder / "mix.toml").read_bytes()
    with pytest.raises(UsageError, match="is the mix itself"):
        build_calibration(folder / "mix.toml", folder / ".." / folder.name / "mix.toml", overwrite=True)
    assert (folder / "mix.toml").read_bytes() == before


def test_a_corpus_with_holdout_and_manifest(folder: Path) -> None:
    found = build_calibration(folder / "mix.toml", folder / "calib.txt")
    corpus, held = (folder / "calib.txt").read_bytes(), (folder / "calib.holdout.txt").read_bytes()
    assert (found.nbytes, found.sha256) == (len(corpus), hashlib.sha256(corpus).hexdigest())
    assert (found.holdout_nbytes, found.holdout_sha256) == (len(held), hashlib.sha256(held).hexdigest())
    lines, records = found.sources
    assert (lines.read, lines.duplicate, records.read, records.duplicate) == (650, 50, 30, 0)
    assert abs(lines.share - 0.75) < 0.03 and abs(len(corpus) - 60_000) < 1000
    assert lines.held_out and records.held_out and len(held) <= 6000
    manifest = json.loads((folder / "calib.manifest.json").read_text("utf-8"))
    assert manifest["corpus"]["sha256"] == found.sha256 and manifest["sources"][0]["licence"] == "CC0-1.0"
    (file,) = manifest["sources"][1]["files"]
    assert file["path"] == "records.jsonl"
    assert file["sha256"] == hashlib.sha256((folder / "records.jsonl").read_bytes()).hexdigest()


def test_the_holdout_shares_no_thirteen_words_with_the_corpus(folder: Path) -> None:
    common = " ".join(f"c{i}" for i in range(13))
    path = folder / "lines.txt"
    path.write_text(
        "\n".join(f"{line} {common}" if i % 2 else line for i, line in enumerate(path.read_text().split("\n")))
    )
    found = build_calibration(folder / "mix.toml", folder / "calib.txt")
    corpus, held = (folder / "calib.txt").read_text("utf-8"), (folder / "calib.holdout.txt").read_text("utf-8")
    assert held and not sequences(corpus) & sequences(held)
    assert found.sources[0].overlapping > 0 and any("left the hold-out" in line for line in found.warnings)


def test_the_same_texts_give_the_same_bytes(folder: Path) -> None:
    first = build_calibration(folder / "mix.toml", folder / "a.txt")
    again = build_calibration(folder / "mix.toml", folder / "b.txt")
    assert (first.sha256, first.holdout_sha256) == (again.sha256, again.holdout_sha256)
    names = [(folder / f"{name}.manifest.json").read_text("utf-8").replace(f"{name}.", "x.") for name in "ab"]
    assert names[0] == names[1]
    (folder / "mix.toml").write_text(MIX.replace("holdout", "seed = 5\nholdout"))
    assert build_calibration(folder / "mix.toml", folder / "c.txt").sha256 != first.sha256


def test_a_source_that_runs_short_is_told(folder: Path) -> None:
    (folder / "mix.toml").write_text(MIX.replace("weight = 1", "weight = 9"))
    found = build_calibration(folder / "mix.toml", folder / "calib.txt")
    assert any(re.search(r"'records' is \d+\.\d% of the corpus instead of 75\.0%", line) for line in found.warnings)


def test_without_holdout_and_size_everything_is_used(folder: Path) -> None:
    (folder / "mix.toml").write_text('[[source]]\nname = "records"\npath = "records.jsonl"\nrepeats = 2\n')
    found = build_calibration(folder / "mix.toml", folder / "calib.txt")
    assert found.holdout is None and found.sources[0].used == 60
    assert not (folder / "calib.holdout.txt").exists()
    assert "no source names its licence" in found.warnings


def test_nothing_appears_when_something_is_wrong(folder: Path) -> None:
    before = sorted(folder.iterdir())
    (folder / "records.jsonl").write_text('{"text": "fine"}\n{"text"')
    with pytest.raises(MixError, match="line 2, character 8: not JSON: Expecting"):
        build_calibration(folder / "mix.toml", folder / "calib.txt")
    (folder / "records.jsonl").write_text("")
    with pytest.raises(UsageError, match="is a source of the mix"):
        build_calibration(folder / "mix.toml", folder / "lines.txt", overwrite=True)
    with pytest.raises(UsageError, match="choose another"):
        build_calibration(folder / "mix.toml", folder / "mix.toml", overwrite=True)
    with pytest.raises(FileExistsError):
        build_calibration(folder / "mix.toml", folder / "lines.txt")
    (folder / "mix.toml").write_text(MIX.replace("60 KB", "9 B"))
    with pytest.raises(MixError, match=r"no document fits a corpus of 9 bytes, the smallest has \d+: raise size"):
        build_calibration(folder / "mix.toml", folder / "calib.txt")
    (folder / "lines.txt").write_text("")
    with pytest.raises(MixError, match="nothing is left"):
        build_calibration(folder / "mix.toml", folder / "calib.txt")
    assert sorted(folder.iterdir()) == before


def test_a_file_that_changes_between_the_readings_is_told(folder: Path) -> None:
    seen: list[str] = []

    def step(name: str) -> None:
        seen.append(name)
        if len(seen) == 2:
            (folder / "lines.txt").write_text("another text")

    with pytest.raises(MixError, match="changed while it was read"):
        build_calibration(folder / "mix.toml", folder / "calib.txt", step=step)
    assert not (folder / "calib.txt").exists()
