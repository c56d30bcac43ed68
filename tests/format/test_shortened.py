"""Tensors that lost their ends to a program that does not count the heads of rows: found, named, never copied on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from support_gguf import Tensor, gguf, string, u32, write_shards

import gguftool
from gguftool.cli.main import cli
from gguftool.codecs import dispatch
from gguftool.errors import PlanError, ShortenedError
from gguftool.format.quanttypes import TYPES, type_by_name
from gguftool.format.reader import open_model
from gguftool.format.shortened import hollow, shortened

HEADED = [t.name for t in TYPES if t.kind == "quant" and (t.row_header or t.tensor_trailer)]
ENCODED = [name for name in HEADED if type_by_name(name).rows_interleaved == 1]


def short(name: str, kind: str, rows: int, cols: int = 256, seed: int = 0) -> tuple[Tensor, bytes]:
    """A tensor as a broken program writes it, and its true bytes: random, encoded where there is an encoder."""
    t = type_by_name(kind)
    if kind in ENCODED and dispatch.can_encode(t):
        values = np.random.default_rng(seed).standard_t(4, (rows, cols)).astype(np.float32)
        data = dispatch.encode(values, t, np.ones(cols, np.float32)).tobytes()
    else:
        data = np.random.default_rng(seed).integers(1, 256, t.nbytes((rows, cols)), dtype=np.uint8).tobytes()
    n = rows * cols // t.block_size * t.block_bytes
    return (name, [cols, rows], t.id, data[:n]), data


def whole(name: str, kind: str, rows: int, cols: int = 256) -> Tensor:
    tensor, data = short(name, kind, rows, cols)
    return (*tensor[:3], data)


F16 = ("output_norm.weight", [128, 3], 1, bytes(range(1, 97)) * 8)
Z = ("z", [128, 3], 1, bytes(768))
KV = [("general.architecture", string("llama")), ("llama.block_count", u32(1))]


def write(path: Path, tensors: Sequence[Tensor], raw: bytes | None = None) -> Path:
    path.write_bytes(gguf(KV, tensors) if raw is None else raw)
    return path


def starts(path: Path, tensors: Sequence[Tensor]) -> dict[str, int]:
    """Where each tensor's bytes lie, looked for by their content."""
    raw = path.read_bytes()
    return {t[0]: raw.index(t[3]) for t in tensors}


def check_told(path: Path, lost: Sequence[str], tmp_path: Path) -> None:
    """Every command names the first tensor and its place, verify all of them; nothing is written."""
    for words in (["info", str(path)], ["copy", str(path), "o.gguf"], ["quantize", str(path), "o.gguf", "Q8_0"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            result = CliRunner().invoke(cli, words)
        assert result.exit_code == 1, words
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"gguftool: {path}: {lost[0]}") and "get or make the file anew" in line, words
        assert (f"{len(lost) - 1} more" in line) == (len(lost) > 1)
        assert not list(tmp_path.glob("o.gguf*"))
    result = CliRunner().invoke(cli, ["verify", str(path)])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [f"gguftool: {path}: {line}" for line in lost]


def lost_line(name: str, kind: str, at: int, rows: int, cols: int = 256) -> str:
    t = type_by_name(kind)
    n = t.row_header * rows + t.tensor_trailer
    return f"tensor '{name}' ({kind}) at byte {at} has lost its last {n} of {t.nbytes((rows, cols))} bytes"


@pytest.mark.parametrize("kind", HEADED)
def test_in_the_middle_and_at_the_end(tmp_path: Path, kind: str) -> None:
    bad, _ = short("blk.0.ffn_up.weight", kind, 64)
    for place, tensors in {"first": [bad, F16], "middle": [F16, bad, Z]}.items():
        named = [(f"{i}.{t[0]}", *t[1:]) for i, t in enumerate(tensors)]
        path = write(tmp_path / f"{place}.gguf", named)
        (name,) = [t[0] for t in named if "ffn" in t[0]]
        at = starts(path, [t for t in named if t[0] == name])[name]
        check_told(path, [lost_line(name, kind, at, 64)], tmp_path)
    last = gguf(KV, [F16, bad])
    for cut in range(0, 1 + len(last) - last.index(bad[3]) - len(bad[3])):  # with every part of the last padding
        path = write(tmp_path / f"end{cut}.gguf", [], last[: len(last) - cut])
        with pytest.raises(ShortenedError) as caught:
            open_model(path)
        assert caught.value.details == (lost_line(bad[0], kind, last.index(bad[3]), 64),)
    assert open_model(write(tmp_path / "good.gguf", [whole("a", kind, 64), F16, whole("b", kind, 64)])).hollow() == ()


def test_several(tmp_path: Path) -> None:
    kinds = {"a": "iq4_kss", "b": "iq4_ks", "c": "q8_KV", "d": "iq3_ks", "e": "iq4_ks_r4"}
    bad = [short(name, kind, 32, seed=i)[0] for i, (name, kind) in enumerate(kinds.items())]
    tensors = [
        bad[0],
        F16,
        bad[1],
        whole("w", "iq5_ks", 9),
        *bad[2:],
        ("plain", [256, 4], 139, bytes(range(1, 145)) * 4),
    ]
    path = write(tmp_path / "m.gguf", tensors)
    places = starts(path, bad)
    check_told(path, [lost_line(name, kind, places[name], 32) for name, kind in kinds.items()], tmp_path)


def test_in_a_shard(tmp_path: Path) -> None:
    bad, _ = short("b", "iq4_kss", 16)
    paths = write_shards(tmp_path, "m", [[F16], [bad, whole("c", "iq4_ks", 16)]])
    with pytest.raises(ShortenedError, match=r"m-00002-of-00002\.gguf: tensor 'b' \(iq4_kss\) at byte"):
        open_model(paths[0])


#: Rows whose heads together fit into the padding behind the blocks, or that lie where a right program put them.
@pytest.mark.parametrize(
    ("kind", "rows", "cols"),
    [("iq4_ks", 2, 256), ("iq4_ks", 5, 512), ("iq2_ks", 3, 256), ("iq3_ks", 4, 512), ("iq4_kss", 3, 256),
     ("q8_KV", 1, 256), ("iq2_kl", 5, 256), ("iq5_ks", 4, 256), ("iq3_kt", 2, 256)],
)  # fmt: skip
def test_hidden_in_the_padding(tmp_path: Path, kind: str, rows: int, cols: int) -> None:
    bad, data = short("blk.0.ffn_up.weight", kind, rows, cols)
    behind = bytes(len(data) - len(bad[3]))
    path = write(tmp_path / "m.gguf", [F16, (*bad[:3], bad[3] + behind), Z])
    check_hollow(path, lost_line(bad[0], kind, path.read_bytes().index(bad[3]), rows, cols), tmp_path)
    good = write(tmp_path / "good.gguf", [F16, (*bad[:3], data)])
    with open_model(good) as model:
        assert not model.hollow()


@pytest.mark.parametrize("kind", HEADED)
def test_hidden_in_a_place_of_the_right_size(tmp_path: Path, kind: str) -> None:
    rows = 64 if kind.endswith("_r8") else 76
    bad, data = short("blk.0.ffn_up.weight", kind, rows)
    path = write(tmp_path / "m.gguf", [F16, (*bad[:3], bad[3] + bytes(len(data) - len(bad[3]))), Z])
    check_hollow(path, lost_line(bad[0], kind, path.read_bytes().index(bad[3]), rows), tmp_path)


def check_hollow(path: Path, line: str, tmp_path: Path) -> None:
    """The same as check_told, but info still shows the file."""
    for call in (
        lambda: gguftool.copy(path, tmp_path / "o.gguf"),
        lambda: gguftool.quantize(path, tmp_path / "o.gguf", "Q8_0", allow_requantize=True),
    ):
        with pytest.raises(PlanError) as caught:
            call()
        assert [p for p in caught.value.problems if p.startswith(f"{path}: {line}: a program that does not count")]
    assert not list(tmp_path.glob("o.gguf*"))
    told = CliRunner().invoke(cli, ["info", str(path)])
    assert told.exit_code == 0 and f"damage        {line}" in told.stdout
    assert gguftool.info(path).damage == (line,)
    verified = CliRunner().invoke(cli, ["verify", str(path)])
    assert (verified.exit_code, verified.stderr) == (1, f"gguftool: {path}: {line}\n")


def test_layers_that_are_pruned_may_be_damaged(tmp_path: Path) -> None:
    bad, data = short("blk.1.ffn_up.weight", "iq4_ks", 2)
    tensors = [
        ("blk.0.ffn_up.weight", *whole("", "iq4_ks", 2)[1:]),
        (*bad[:3], bad[3] + bytes(len(data) - len(bad[3]))),
    ]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([KV[0], ("llama.block_count", u32(2))], tensors))
    with pytest.raises(PlanError, match="has lost its last 8 of 280 bytes"):
        gguftool.copy(path, tmp_path / "o.gguf")
    gguftool.copy(path, tmp_path / "o.gguf", prune_layers=[1])
    assert gguftool.verify(tmp_path / "o.gguf").problems == ()


def arrays(rows: int, cols: int, seed: int) -> dict[str, np.ndarray]:
    """What real weights may look like where they end in zeros."""
    x = np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)
    tail, pads, sparse = x.copy(), x.copy(), x.copy()
    tail[rows // 2 :] = 0
    pads[:, cols - cols // 8 :] = 0
    sparse[np.random.default_rng(seed + 1).random(x.shape) < 0.9] = 0
    return {"plain": x, "zero rows": tail, "zero columns": pads, "sparse": sparse, "zeros": x * 0, "ones": x * 0 + 1,
            "minus ones": x * 0 - 1, "last column": x * (np.arange(cols) < cols - 1)}  # fmt: skip


@settings(max_examples=25)
@given(rows=st.integers(1, 70), seed=st.integers(0, 1 << 30))
@pytest.mark.parametrize("kind", [k for k in ENCODED if dispatch.can_encode(type_by_name(k)) and "kt" not in k])
def test_no_whole_tensor_is_suspected(kind: str, rows: int, seed: int) -> None:
    t = type_by_name(kind)
    for what, values in arrays(rows, 256, seed).items():
        data = dispatch.encode(values, t).tobytes()
        info = gguftool.TensorInfo("a", (rows, 256), t, 0, 0, len(data))
        assert not hollow([info], lambda _, at, n, data=data: data[at : at + n]), what


@pytest.mark.parametrize(
    ("kind", "rows", "cols", "zeros"),
    [("iq4_kss", 64, 512, 256), ("iq4_ks", 68, 512, 272), ("q8_KV_r8", 8, 256, 32)],
)
def test_zeros_that_values_may_have_are_not_suspected(kind: str, rows: int, cols: int, zeros: int) -> None:
    """The blocks of a last row of equal values; the last columns of one group of woven rows."""
    t = type_by_name(kind)
    n = t.nbytes((rows, cols))
    data = np.random.default_rng(3).integers(1, 256, n, dtype=np.uint8)
    data[n - zeros :] = 0
    assert n - zeros == rows * cols // t.block_size * t.block_bytes  # what a broken program leaves
    info = gguftool.TensorInfo("a", (rows, cols), t, 0, 0, n)
    assert not hollow([info], lambda _, at, count: data[at : at + count].tobytes())


def test_what_is_only_cut_off_is_not_called_shortened() -> None:
    t = type_by_name("iq4_kss")
    info = gguftool.TensorInfo("a", (64, 256), t, 0, 0, t.nbytes((64, 256)))
    for end in (0, 100, 64 * 128 - 1, 64 * 128 + 33, t.nbytes((64, 256))):
        assert not shortened([info], 32, end)
    assert shortened([info], 32, 64 * 128) == (info,)
    plain = gguftool.TensorInfo("a", (64, 256), type_by_name("iq4_k"), 0, 0, 64 * 144)
    assert not shortened([plain], 32, 64 * 128)
