"""Documents out of files: plain text, JSON Lines, Parquet; every file is read as a stream and hashed on the way.

What comes from a file is text as it stands there, line ends made "\\n". Compressed files (.gz) are opened as what they
hold. Nothing is guessed: bytes that are not UTF-8, a line that is no JSON or a record without the field stop the
reading with file and line.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gguftool.corpus.mix import MixError, Source

_LONGEST_LINE = 1 << 26
_CUTS = ("\n\n", "\n", " ")


class Hashed(io.RawIOBase):
    """A file opened for reading that hashes what was read; ``digest`` of all of it, once it was read to its end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._state = hashlib.sha256()
        self.nbytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self._state.update(memoryview(buffer)[:count])
        self.nbytes += count
        return count

    def digest(self) -> str:
        while self.read(1 << 20):
            pass
        return self._state.hexdigest()

    def close(self) -> None:
        self._file.close()
        super().close()


def files_of(source: Source, folder: Path) -> list[Path]:
    """The files that a source's patterns find, sorted, each once; MixError says where to get them if there is none."""
    found: dict[Path, None] = {}
    for pattern in source.path:
        place = Path(pattern)
        base, parts = (Path(place.anchor), place.relative_to(place.anchor)) if place.is_absolute() else (folder, place)
        try:
            hits = sorted(hit for hit in base.glob(str(parts)) if hit.is_file())
        except (ValueError, NotImplementedError) as trouble:
            raise MixError(f"source '{source.name}': path '{pattern}': {trouble}") from None
        if not hits:
            licence = f" ({source.licence})" if source.licence else ""
            advice = f": get it from {source.url}{licence}" if source.url else ""
            raise MixError(f"source '{source.name}': no file {base / parts}{advice}")
        found |= dict.fromkeys(hits)
    return list(found)


def documents(raw: Hashed, path: Path, source: Source) -> Iterator[str]:
    """The documents of one open file in order, cut at ``max_chars``, empty ones left out; MixError for bad content."""
    for whole in _whole(path, raw, source):
        for text in cut(whole.strip("\n"), source.max_chars):
            if text.strip():
                yield text


def cut(text: str, most: int) -> Iterator[str]:
    """The text in pieces of at most that many characters, cut at empty lines, else lines, else spaces, if there are."""
    while len(text) > most:
        for mark in _CUTS:
            at = text.rfind(mark, 1, most + 1)
            if at > most // 2:
                break
        else:
            at, mark = most, ""
        yield text[:at]
        text = text[at + len(mark) :].lstrip("\n")
    yield text


def _whole(path: Path, raw: Hashed, source: Source) -> Iterator[str]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = source.format
    if kind is None:
        kind = "parquet" if ".parquet" in suffixes else "jsonl" if {".jsonl", ".ndjson"} & set(suffixes) else "text"
    if kind == "parquet":
        yield from (_record(row, source, path, f"row {n}") for n, row in enumerate(_parquet(path, raw, source), 1))
        return
    buffered = io.BufferedReader(raw, 1 << 20)
    packed = suffixes[-1:] == [".gz"]
    try:
        lines = _lines(path, gzip.GzipFile(fileobj=buffered) if packed else buffered)
        yield from _jsonl(lines, source, path) if kind == "jsonl" else _split(lines, source)
    finally:
        buffered.detach()  # or it would close the file, which is not its own


def _lines(path: Path, stream: io.BufferedIOBase) -> Iterator[str]:
    """Lines with their "\\n"; a NUL or bytes that are not UTF-8 mean that this is no text."""
    at = 0
    while True:
        try:
            line = stream.readline(_LONGEST_LINE + 1)
        except (EOFError, OSError, zlib.error) as trouble:
            raise MixError(f"{path}: cannot be unpacked: {trouble}") from None
        if not line:
            return
        if len(line) > _LONGEST_LINE:
            raise MixError(f"{path}: at byte {at}: a line of more than {_LONGEST_LINE} bytes")
        try:
            text = line.decode("utf-8-sig" if at == 0 else "utf-8")
        except UnicodeDecodeError as trouble:
            raise MixError(f"{path}: at byte {at + trouble.start}: not UTF-8: convert it with iconv, say") from None
        if "\0" in text:
            raise MixError(f"{path}: at byte {at}: a NUL: this is no text")
        at += len(line)
        yield re.sub(r"\r\n?", "\n", text)


def _split(lines: Iterable[str], source: Source) -> Iterator[str]:
    if source.split == "line":
        yield from (line.rstrip("\n") for line in lines)
        return
    held: list[str] = []
    size = 0
    for line in lines:
        ends = line.strip() == source.separator.strip() if source.split == "separator" else not line.strip()
        if ends and source.split != "file":
            yield "".join(held)
            held, size = [], 0
            continue
        held.append(line)
        size += len(line)
        if size > 2 * source.max_chars:  # a large file is not held whole: pieces of it are cut on the way
            *ready, rest = cut("".join(held), source.max_chars)
            yield from ready
            held, size = [rest], len(rest)
    yield "".join(held)


def _jsonl(lines: Iterable[str], source: Source, path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as trouble:
            where = f"line {number}, character {trouble.pos + 1}"
            raise MixError(f"{path}: {where}: not JSON: {trouble.msg}") from None
        except (ValueError, RecursionError) as trouble:
            raise MixError(f"{path}: line {number}: not JSON: {trouble}") from None
        yield _record(record, source, path, f"line {number}")


def _parquet(path: Path, raw: Hashed, source: Source) -> Iterator[Any]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MixError(f"{path}: Parquet needs pyarrow: pip install 'gguftool[parquet]'") from None
    raw.digest()
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name.split(".")[0] for name in source.field]
            known = file.schema_arrow.names
            for name in columns:
                if name not in known:
                    raise MixError(f"{path}: no column '{name}'; there are {', '.join(known)}")
            for batch in file.iter_batches(batch_size=1024, columns=list(dict.fromkeys(columns))):
                yield from batch.to_pylist()
    except arrow.ArrowException as trouble:
        raise MixError(f"{path}: not Parquet, or damaged: {str(trouble).splitlines()[0]}") from None


def _record(record: Any, source: Source, path: Path, where: str) -> str:
    parts = []
    for name in source.field:
        value = record
        for key in name.split("."):
            if not isinstance(value, dict) or key not in value:
                has = f"; it has {', '.join(map(str, value))[:200]}" if isinstance(value, dict) else ""
                raise MixError(f"{path}: {where}: no field '{name}'{has}: set field = \"...\" in the mix")
            value = value[key]
        parts.append(_value(value, source.template, f"{path}: {where}: field '{name}'"))
    return re.sub(r"\r\n?", "\n", "\n\n".join(part for part in parts if part)).replace("\0", "")


def _value(value: Any, template: str, where: str) -> str:
    """Text of a field: a text itself, a list of messages by the template, a list of texts joined, null is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n\n".join(value)
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return conversation([_message(item, where) for item in value], template)
    raise MixError(f"{where}: neither text nor a list of messages")


_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "function_call": "assistant",
          "observation": "tool", "function": "tool", "function_response": "tool"}  # fmt: skip


def _message(item: dict[str, Any], where: str) -> tuple[str, str]:
    """(role, text) of a message as {role, content} or {from, value}; calls of tools are written as JSON."""
    role = item.get("role", item.get("from"))
    if not isinstance(role, str):
        raise MixError(f"{where}: a message without role")
    content = item.get("content", item.get("value"))
    if isinstance(content, list):
        content = "\n".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    parts = [content] if content else []
    if item.get("tool_calls"):
        parts.append(json.dumps(item["tool_calls"], ensure_ascii=False))
    return _ROLES.get(role, role), "\n".join(str(part) for part in parts)


def conversation(messages: Sequence[tuple[str, str]], template: str) -> str:
    """A conversation as text. Special tokens are written as text: collect the imatrix with ``--parse-special`` then."""
    if template == "chatml":
        return "\n".join(f"<|im_start|>{role}\n{text}<|im_end|>" for role, text in messages)
    if template == "llama3":
        return "".join(f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in messages)
    if template == "mistral":
        return "".join(f"{text}</s>" if role == "assistant" else f"[INST] {text} [/INST]" for role, text in messages)
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in messages)
