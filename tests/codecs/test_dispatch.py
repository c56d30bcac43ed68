"""The face of the codecs: what it takes, what it refuses, and that nothing but the input decides the bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support_golden import BLOCKS, FLOATS, IK, IQ4, KQUANTS, LEGACY, rel_mse, rel_wmse
from support_isa import WAYS

from gguftool import _native
from gguftool.codecs import dispatch, jit, native
from gguftool.codecs.dispatch import ErrorSums
from gguftool.errors import CodecError, UnknownTypeError, UsageError
from gguftool.format.quanttypes import type_by_name

ALL = (*FLOATS, *LEGACY, *KQUANTS, *IQ4)

# Prints one line per type, weighting and effort: the hash of the blocks. Run once per instruction set, and with numba.
HASHES = """
import hashlib, sys
import numpy as np
from gguftool.codecs import dispatch
rng = np.random.default_rng(9)
x = (0.02 * rng.standard_t(4, (6, 1024))).astype(np.float32)
x[1] *= np.float32(1e-6); x[2] *= np.float32(1e4); x[3, 256:512] = 0; x[4] = np.abs(x[4]); x[5, ::3] = -0.0
a = np.exp(rng.standard_normal(1024)); a[64:96] = 0; a[256:512] = 0
print(dispatch.isa())
for name in sys.argv[1].split(','):
    for importance in (None, a):
        for objective in ('imatrix', 'ref', 'mse'):
            for effort in ('fast', 'default'):
                blocks = dispatch.encode(x, name, importance, objective=objective, effort=effort)
                label = f"{name} {importance is None} {objective} {effort}"
                print(label, hashlib.sha256(blocks.tobytes()).hexdigest())
"""


def run(code: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(dispatch.__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    base = {k: v for k, v in os.environ.items() if not k.startswith("GGUFTOOL_")}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *args],  # -P: not the checkout in the current folder
        env=base | {"PYTHONPATH": path} | env,
        capture_output=True,
        text=True,
        check=False,
    )


def rows(n_rows: int = 4, n_cols: int = 512) -> np.ndarray:
    return (0.02 * np.random.default_rng(1).standard_t(4, (n_rows, n_cols))).astype(np.float32)


def test_every_instruction_set_and_numba_give_the_same_bytes() -> None:
    outputs = []
    for way in WAYS:
        done = run(HASHES, ",".join(ALL), **({"GGUFTOOL_BACKEND": way} if way == "numba" else {"GGUFTOOL_ISA": way}))
        assert done.returncode == 0, done.stderr
        first, *hashes = done.stdout.splitlines()
        assert first == way
        assert len(hashes) == len(ALL) * 12
        outputs.append(hashes)
    assert all(hashes == outputs[0] for hashes in outputs)


@pytest.mark.parametrize("name", (*FLOATS, *BLOCKS))
def test_neither_chunks_nor_threads_matter(name: str) -> None:
    x, a = rows(12), np.exp(np.random.default_rng(2).standard_normal(512))
    whole = dispatch.encode(x, name, a, effort="fast")
    pieces = [dispatch.encode(x[i : i + 5], name, a, effort="fast") for i in range(0, 12, 5)]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()
    with ThreadPoolExecutor(3) as pool:
        threads = list(pool.map(lambda row: dispatch.encode(row[None], name, a, effort="fast"), x))
    assert np.concatenate(threads).tobytes() == whole.tobytes()


def test_the_gil_is_released() -> None:
    """With a switch interval of minutes another thread only runs when the GIL is given away."""
    interval, seen = sys.getswitchinterval(), threading.Event()
    go = threading.Event()

    def other() -> None:
        go.wait()
        seen.set()

    thread = threading.Thread(target=other)
    thread.start()
    x, out, t = rows(64, 4096), np.empty((64, 4352), np.uint8), type_by_name("q8_0")
    sys.setswitchinterval(300)
    try:
        go.set()
        for _ in range(400):
            _native.transcode(0, t.id, x, 64, 4096, None, None, out, 0, 1, False)
            if seen.is_set():
                break
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert seen.is_set()


def test_the_bytes_do_not_depend_on_the_threads_float_mode() -> None:
    code = """
import ctypes, ctypes.util, sys
import numpy as np
from gguftool.codecs import dispatch
libm = ctypes.CDLL(ctypes.util.find_library("m"))
libm.rint.restype, libm.rint.argtypes = ctypes.c_double, (ctypes.c_double,)
x = (0.02 * np.random.default_rng(1).standard_normal((4, 1024))).astype(np.float32)
plain = [dispatch.encode(x, t).tobytes() for t in sys.argv[1].split(",")]
for mode in [int(m, 0) for m in sys.argv[2].split(",")]:
    assert libm.fesetround(mode) == 0
    before = [libm.rint(v) for v in (0.5, 1.5, -0.5)]
    again = [dispatch.encode(x, t).tobytes() for t in sys.argv[1].split(",")]
    assert [libm.rint(v) for v in (0.5, 1.5, -0.5)] == before, "the mode was not put back"
    libm.fesetround(0)
    assert again == plain, mode
print("same")
"""
    modes = "0x400,0x800,0xc00" if os.uname().machine in ("x86_64", "i686") else "0x400000,0x800000,0xc00000"
    done = run(code, "f16,q4_0,q5_1,q8_0", modes)
    assert done.stdout.strip() == "same", done.stderr


@pytest.mark.parametrize("src_name", ("f32", "f16", "bf16", "q8_0", "q5_K"))
@pytest.mark.parametrize("dst_name", ("f32", "bf16", "q4_0", "q6_K"))
def test_transcode_is_decode_then_encode(src_name: str, dst_name: str) -> None:
    src_type, dst_type = type_by_name(src_name), type_by_name(dst_name)
    src = dispatch.encode(rows(), src_type)
    values = dispatch.decode(src, src_type, 512)
    expected = dispatch.encode(values, dst_type)
    out = np.empty_like(expected)
    assert dispatch.transcode(src.tobytes(), src_type, dst_type, 4, 512, None, out) is None
    assert out.tobytes() == expected.tobytes()
    odd = bytearray(b"\1" + src.tobytes())  # a buffer at an odd address
    dispatch.transcode(memoryview(odd)[1:], src_type, dst_type, 4, 512, None, memoryview(out).cast("B"))
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("n_cols", (32, 64, 992))
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_error_sums(n_cols: int, dtype: type) -> None:
    x = rows(5, n_cols)
    a = np.exp(np.random.default_rng(3).standard_normal(n_cols)).astype(dtype)
    a[:3] = 0
    weights, _ = dispatch.prepare_importance(a)
    f32, t = type_by_name("f32"), type_by_name("q4_1")
    out = np.empty((5, t.row_nbytes(n_cols)), np.uint8)
    sums = dispatch.transcode(x, f32, t, 5, n_cols, weights, out, importance=a, errors=True)
    assert sums is not None
    y = dispatch.decode(out, t, n_cols)
    e = x.astype(np.float64) - y
    np.testing.assert_allclose(sums.error, (e**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(sums.signal, (x.astype(np.float64) ** 2).sum(), rtol=1e-12)
    np.testing.assert_allclose(sums.weighted_error, (a * e**2).sum(), rtol=1e-12)
    assert sums.count == x.size
    np.testing.assert_allclose(sums.weighted_error / sums.weighted_signal, rel_wmse(x, y, a), rtol=1e-12)
    plain = dispatch.transcode(x, f32, t, 5, n_cols, weights, out, errors=True)
    assert plain is not None
    assert (plain.weighted_error, plain.weighted_signal) == (plain.error, plain.signal)
    np.testing.assert_allclose(plain.error / plain.signal, rel_mse(x, y), rtol=1e-12)


def test_error_sums_are_the_same_everywhere_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    x, a = rows(3, 4 * 32 + 5), np.exp(np.random.default_rng(3).standard_normal(133))
    f32, f16 = type_by_name("f32"), type_by_name("f16")
    found = []
    for way in WAYS:
        monkeypatch.setattr(dispatch, "_kernels", lambda way=way: jit if way == "numba" else native)
        _native.use(None if way == "numba" else way)
        out = np.empty((3, 266), np.uint8)
        found.append(dispatch.transcode(x, f32, f16, 3, 133, None, out, importance=a, errors=True))
    _native.use(native.isa())
    assert found[0] is not None
    assert all(sums == found[0] for sums in found)
    assert found[0] + ErrorSums() == found[0]
    doubled = found[0] + found[0]
    assert (doubled.error, doubled.count) == (2 * found[0].error, 2 * found[0].count)


def test_rows_may_be_strided_and_names_in_any_case() -> None:
    wide = np.repeat(rows(), 2, axis=1)
    expected = dispatch.encode(rows(), "q5_0")
    assert dispatch.encode(wide[:, ::2], "Q5_0").tobytes() == expected.tobytes()
    assert dispatch.encode(np.asfortranarray(rows()), type_by_name("q5_0")).tobytes() == expected.tobytes()
    read_only = rows()
    read_only.flags.writeable = False
    assert dispatch.encode(read_only, " q5_0 ").tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("bad", "says"),
    (
        (np.zeros((2, 64)), "float64"),
        (np.zeros((2, 64), np.int32), "int32"),
        (np.zeros(64, np.float32), r"shape \(64,\)"),
        (np.zeros((1, 2, 64), np.float32), r"shape \(1, 2, 64\)"),
        (np.zeros((2, 65), np.float32), "multiple of 32"),
    ),
)
def test_wrong_rows_are_refused(bad: np.ndarray, says: str) -> None:
    with pytest.raises(CodecError, match=says):
        dispatch.encode(bad, "q4_0")


def test_wrong_words_types_and_shapes_are_refused() -> None:
    x = rows()
    with pytest.raises(UnknownTypeError, match="did you mean"):
        dispatch.encode(x, "q4_k_m")
    with pytest.raises(CodecError, match="cannot encode iq2_bn yet"):
        dispatch.encode(x, "iq2_bn")
    with pytest.raises(UsageError, match="objective='best'"):
        dispatch.encode(x, "q4_0", objective="best")
    with pytest.raises(UsageError, match="effort='max'"):
        dispatch.encode(x, "q4_0", effort="max")
    with pytest.raises(CodecError, match="one value per column"):
        dispatch.encode(x, "q4_0", np.ones(511))
    f32, q4_0 = type_by_name("f32"), type_by_name("q4_0")
    with pytest.raises(CodecError, match="source: 8192 bytes where 10240"):
        dispatch.transcode(x, f32, q4_0, 5, 512, None, np.empty((5, 288), np.uint8))
    with pytest.raises(CodecError, match="output: 287 bytes where 288"):
        dispatch.transcode(x[:1], f32, q4_0, 1, 512, None, np.empty(287, np.uint8))
    with pytest.raises(CodecError, match="weights of shape"):
        dispatch.transcode(x[:1], f32, q4_0, 1, 512, np.ones(3, np.float32), np.empty(288, np.uint8))


@pytest.mark.parametrize("name", (*LEGACY, *KQUANTS, *IQ4))
def test_nan_and_infinity_never_get_into_a_block(name: str) -> None:
    x = rows()
    for bad in (np.nan, np.inf):
        x[3, 500] = bad
        with pytest.raises(CodecError, match="row 3, column 500"):
            dispatch.encode(x, name)


def test_the_extension_checks_lengths_itself() -> None:
    x, out = np.zeros((1, 32), np.float32), np.zeros(18, np.uint8)
    for args in ((x, 1, 64), (x, 2, 32), (x, -1, 32), (x, 1, -32), (x, 1, 31), (x, 2**62, 32)):
        with pytest.raises(ValueError, match=r"bytes, expected|no whole blocks"):
            _native.transcode(0, 2, *args, None, None, out, 0, 1, False)
    with pytest.raises(ValueError, match="weights"):
        _native.transcode(0, 2, x, 1, 32, np.zeros(31, np.float32), None, out, 0, 1, False)
    for n_cols in (2**58, 2**62):  # no rows, whose bytes would not fit into 64 bits
        with pytest.raises(ValueError, match="no whole blocks"):
            _native.transcode(0, 2, b"", 0, n_cols, None, None, bytearray(), 0, 1, False)
        with pytest.raises(ValueError, match="no whole blocks"):
            _native.decode(2, b"", 0, n_cols, bytearray())
    for objective, effort in ((-1, 0), (4, 0), (0, -1), (0, 3)):
        with pytest.raises(ValueError, match=f"no objective {objective} with effort {effort}"):
            _native.transcode(0, 2, x, 1, 32, None, None, out, objective, effort, False)
    with pytest.raises(ValueError, match="no kernel"):
        _native.transcode(0, 999, x, 1, 32, None, None, out, 0, 1, False)
    with pytest.raises(ValueError, match="output"):
        _native.decode(2, out, 1, 32, np.zeros(31, np.float32))


def test_both_backends_know_the_same_types() -> None:
    ours, numba = native.codecs(), jit.codecs()
    assert set(ours) == set(numba) == {type_by_name(name).id for name in (*FLOATS, *BLOCKS, *IK)}
    assert all(codec.decodes for codec in ours.values())
    assert all(ours[type_by_name(name).id].encodes for name in (*FLOATS, *BLOCKS))
    assert all(codec.decodes for codec in numba.values())
    assert all(numba[type_by_name(name).id].encodes for name in ALL)


def test_the_extension_serves_every_python_from_3_11() -> None:
    assert Path(_native.__file__ or "").name == "_native.abi3.so"


def test_the_environment_chooses() -> None:
    show = "from gguftool.codecs import dispatch as d; print(d.backend(), d.isa())"
    assert run(show).stdout.split() == ["native", _native.isas[-1]]
    assert run(show, GGUFTOOL_ISA="base").stdout.split() == ["native", "base"]
    assert run(show, GGUFTOOL_BACKEND="numba").stdout.split() == ["numba", "numba"]
    assert "GGUFTOOL_ISA=sse9: no such kernels" in run(show, GGUFTOOL_ISA="sse9").stderr
    assert "GGUFTOOL_BACKEND=cuda: choose native or numba" in run(show, GGUFTOOL_BACKEND="cuda").stderr


WITHOUT = """
import sys
sys.modules["gguftool._native"] = None
import numpy as np
from gguftool.codecs import dispatch
from gguftool.errors import GGUFToolError
from gguftool.format.quanttypes import type_by_name
try:
    print(dispatch.backend(), dispatch.encode(np.ones((1, 32), np.float32), "q8_0").tobytes().hex()[:8])
    dispatch.encode(np.ones((1, 256), np.float32), "iq1_s")
except GGUFToolError as error:
    print(error)
"""


def test_without_the_extension_numba_takes_over_and_says_so() -> None:
    first, second = run(WITHOUT).stdout.splitlines()  # a module that is None cannot be imported
    assert first.startswith("numba")
    assert "cannot encode iq1_s without the compiled kernels" in second
    assert "the compiled kernels are not installed" in run(WITHOUT, GGUFTOOL_BACKEND="native").stdout


@pytest.mark.parametrize(("found", "said"), [(None, "are not installed"), (b"no library", "do not load (")])
def test_an_extension_that_is_missing_or_broken_is_told_apart(tmp_path: Path, found: bytes | None, said: str) -> None:
    package = Path(dispatch.__file__).parents[1]
    shutil.copytree(package, tmp_path / "gguftool", ignore=shutil.ignore_patterns("_native*", "__pycache__"))
    if found is not None:
        (tmp_path / "gguftool" / Path(_native.__file__ or "").name).write_bytes(found)
    code = WITHOUT.replace('sys.modules["gguftool._native"] = None', "")
    done = run(code, GGUFTOOL_BACKEND="native", PYTHONPATH=str(tmp_path))
    assert f"the compiled kernels {said}" in done.stdout, done.stderr


def test_importing_the_face_loads_neither_backend() -> None:
    code = """
import sys
from gguftool.codecs import dispatch
print([m for m in ("numba", "gguftool._native", "pandas") if m in sys.modules])
"""
    assert run(code).stdout.strip() == "[]"


def test_versions_and_objectives() -> None:
    assert dispatch.KERNELS_VERSION
    assert all(dispatch.default_objective(type_by_name(name)) in dispatch.OBJECTIVES for name in ALL)
    assert not dispatch.can_encode(type_by_name("iq2_bn"))
