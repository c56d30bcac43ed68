"""A mix is checked once: every wrong one gets one line that says what is wrong and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguftool.corpus.mix import MixError, read_mix, size_in_bytes

GOOD = '[mix]\nsize = "200 KB"\nholdout = 0.1\n[[source]]\nname = "a"\npath = "*.txt"\nweight = 2\n'


def mix_of(folder: Path, text: str) -> Path:
    path = folder / "mix.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_mix_says_what_it_holds(tmp_path: Path) -> None:
    mix = read_mix(mix_of(tmp_path, GOOD + 'licence = "CC0"\nfield = ["q", "a.text"]\nrepeats = 5\n'))
    assert (mix.name, mix.size, mix.holdout, mix.seed, mix.folder) == ("mix", 200_000, 0.1, 0, tmp_path)
    (source,) = mix.sources
    assert (source.path, source.weight, source.repeats, source.field) == (("*.txt",), 2.0, 5, ("q", "a.text"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "one [[source]] or more"),
        ("= 3", "not TOML"),
        ('[[source]]\npath = "x"\n', "source 1: it has no name"),
        ('[[source]]\nname = "a"\n', "source 1 'a': it has no path"),
        (GOOD + "wieght = 3\n", "there is no 'wieght'; there are about, field"),
        (GOOD + "repeats = 0\n", "repeats is 0, but should be a whole number from 1 to 1000"),
        (GOOD + "repeats = true\n", "repeats is True"),
        (GOOD + "min_chars = 20000\n", "max_chars (16000) is below"),
        (GOOD + 'split = "pages"\n', "split is 'pages'; there are file, line, paragraph, separator"),
        (GOOD + 'split = "separator"\n', "go together"),
        (GOOD + 'template = "alpaca"\n', "there are plain, chatml, llama3, mistral"),
        (GOOD + "field = [1]\n", "field is [1]"),
        (GOOD.replace("weight = 2", "weight = nan"), "weight is nan"),
        (GOOD.replace("weight = 2", "weight = 0"), "weight is 0"),
        (GOOD.replace("200 KB", "many"), 'should be bytes, such as 200000 or "200 KB"'),
        (GOOD.replace("0.1", "0.7"), "holdout is 0.7, but should be a number from 0 to 0.5"),
        (GOOD + GOOD.partition("0.1\n")[2], "two sources have the name 'a'"),
        ("mix = 3\n" + GOOD.partition("0.1\n")[2], "a table [mix]"),
        ("[[source]]\nname = 'a'\npath = 'x'\n[[sources]]\n", "there is no 'sources'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(MixError) as caught:
        read_mix(mix_of(tmp_path, text))
    assert said in str(caught.value) and "\n" not in str(caught.value).strip()


def test_a_file_that_is_no_text_is_no_mix(tmp_path: Path) -> None:
    path = tmp_path / "mix.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MixError, match="not TOML"):
        read_mix(path)
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(MixError, match="this is no mix"):
        read_mix(path)


@pytest.mark.parametrize(
    ("text", "size"),
    [("200 KB", 200_000), ("1.5MiB", 3 << 19), (4096, 4096), ("7", 7), ("0", None), ("-3", None), ("1e9", None),
     ("", None), (True, None), ("9" * 30, None)],
)  # fmt: skip
def test_sizes(text: object, size: int | None) -> None:
    assert size_in_bytes(text) == size
