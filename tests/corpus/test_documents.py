"""Documents come out of files as they stand there, and whatever is no text says where."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguftool.corpus.documents import Hashed, conversation, cut, documents, files_of
from gguftool.corpus.mix import MixError, Source


def read(path: Path, **options: object) -> list[str]:
    source = Source("s", (path.name,), **options)  # type: ignore[arg-type]
    with Hashed(path) as raw:
        found = list(documents(raw, path, source))
        assert raw.digest() == hashlib.sha256(path.read_bytes()).hexdigest()
        assert raw.nbytes == path.stat().st_size
    return found


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_text_is_split_as_asked(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "\ufeff\n  one\r\ntwo\r\n\r\n\r\nthree\n---\nfour")
    assert read(path) == ["  one\ntwo\n\n\nthree\n---\nfour"]
    assert read(path, split="line") == ["  one", "two", "three", "---", "four"]
    assert read(path, split="paragraph") == ["  one\ntwo", "three\n---\nfour"]
    assert read(path, split="separator", separator="---") == ["  one\ntwo\n\n\nthree", "four"]


@given(st.text("ab \n", max_size=400), st.integers(1, 50))
def test_cutting_loses_no_word_characters(text: str, most: int) -> None:
    pieces = list(cut(text, most))
    assert all(len(piece) <= most for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_long_documents_are_cut_at_paragraphs_and_not_held_whole(tmp_path: Path) -> None:
    paragraph = "word " * 30
    path = written(tmp_path, "a.txt", "\n\n".join(f"{i} {paragraph}" for i in range(500)))
    found = read(path, max_chars=1000)
    assert all(len(text) <= 1000 and text[0].isdigit() for text in found)
    assert " ".join(found).split() == path.read_text().split()


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz"])
def test_records(tmp_path: Path, name: str) -> None:
    lines = [
        {"text": "plain\r\ntext"},
        {"text": None},
        {"text": ["first", "second"]},
        {"text": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [{"f": 1}]}]},
        {"text": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"text": [{"role": "user", "content": [{"type": "text", "text": "part"}, {"type": "image"}]}]},
    ]
    raw = "\n".join(json.dumps(line) for line in lines).encode() + b"\n\n"
    path = written(tmp_path, name, gzip.compress(raw) if name.endswith("gz") else raw)
    assert read(path) == [
        "plain\ntext",
        "first\n\nsecond",
        'User: Hi\n\nAssistant: [{"f": 1}]',
        "User: Hi\n\nAssistant: Hello",
        "User: part",
    ]


def test_fields_may_be_nested_and_several(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"q": "Why?", "a": {"text": "So."}, "text": "no"}')
    assert read(path, field=("q", "a.text")) == ["Why?\n\nSo."]


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as parquet

    path = tmp_path / "a.parquet"
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    parquet.write_table(arrow.table({"text": ["one", None, "three"], "talk": [talk, talk, []]}), path)
    assert read(path) == ["one", "three"]
    assert read(path, field=("talk",)) == ["User: Hi\n\nAssistant: Hello"] * 2
    with pytest.raises(MixError, match="no column 'body'; there are text, talk"):
        read(path, field=("body",))
    with pytest.raises(MixError, match="not Parquet, or damaged"):
        read(written(tmp_path, "b.parquet", path.read_bytes()[:-9]))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"good\nb\xe4d", "at byte 6: not UTF-8"),
        ("a.txt", b"go\0od", "a NUL: this is no text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2, character 10: not JSON: Expecting value"),
        ("a.jsonl", b"[1]\n", "line 1: no field 'text'"),
        ("a.jsonl", b'{"body": "a"}\n', "line 1: no field 'text'; it has body: set field"),
        ("a.jsonl", b'{"text": 7}\n', "field 'text': neither text nor a list of messages"),
        ("a.jsonl", b'{"text": [{"content": "a"}]}\n', "a message without role"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", "line 1: not JSON"),
        ("a.txt.gz", b"no gzip", "cannot be unpacked"),
        ("a.txt.gz", gzip.compress(b"hello" * 99, mtime=0)[:-12], "cannot be unpacked"),
    ],
)
def test_what_is_no_text_says_where(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(MixError) as caught:
        read(written(tmp_path, name, content))
    assert said in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_files_are_found_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path, name, "x")
    source = Source("s", ("*.txt", "a.txt", str(tmp_path / "sub" / "*.txt")))
    assert files_of(source, tmp_path) == [tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "sub/c.txt"]
    with pytest.raises(MixError, match=r"source 's': no file .*d\.txt: get it from https://x \(MIT\)"):
        files_of(Source("s", ("d.txt",), licence="MIT", url="https://x"), tmp_path)


def test_templates_write_special_tokens() -> None:
    talk = [("user", "Hi"), ("assistant", "Hello")]
    assert conversation(talk, "chatml") == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>"
    assert conversation(talk, "mistral") == "[INST] Hi [/INST]Hello</s>"
    assert conversation(talk, "llama3").count("<|eot_id|>") == 2
