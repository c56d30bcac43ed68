"""Statistics of a model's weights, decoded a piece at a time on any number of threads.

ZD of Layer-Wise Quantization (Dumitru et al., arXiv 2406.17415): the share of the weights whose z-score, (w - mean) /
std, is above 1. **Smaller is more important**, the paper finds. A normal distribution has 0.1587. It is a score of
layers, over all weights of a layer's matrices, and needs no calibration text; the same share per tensor stands beside.

Two walks over the file: one for the moments, one that counts what lies above the bounds that follow from them. Pieces
lie on a fixed grid and their sums are joined in its order, so the figures do not depend on threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gguftool.codecs.dispatch import can_decode, decode
from gguftool.codecs.jit_moments import count_above, power_sums
from gguftool.codecs.unpack import unpack_rows
from gguftool.format.header import TensorInfo
from gguftool.format.names import layer_of, place_of
from gguftool.format.quanttypes import UNPACKABLE, type_by_name
from gguftool.format.reader import Model
from gguftool.imatrix.moments import Moments, joined
from gguftool.run.tasks import TASK_ELEMENTS

_NAN = math.nan
_T = TypeVar("_T")
_Place = tuple[str, int]
_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WeightStatistics:
    """One tensor's ``n`` weights as its ``type`` decodes; NaN where it cannot, or where it holds NaN or Inf.

    ``kurtosis`` is the excess over the normal distribution's 3; ``zero_pct`` counts exact zeros; ``zd_weight`` is the
    share of weights more than one ``std`` above the ``mean``. ``matrix`` is False for norms and biases.
    """

    name: str
    layer: int | None
    kind: str
    stack: str
    type: str
    matrix: bool
    n: int
    mean: float = _NAN
    std: float = _NAN
    min: float = _NAN
    max: float = _NAN
    abs_max: float = _NAN
    skewness: float = _NAN
    kurtosis: float = _NAN
    zero_pct: float = _NAN
    zd_weight: float = _NAN


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """All ``n`` weights of a layer's matrices as one sample. ``rank`` 1 is the layer with the smallest ``zd_weight``:
    the most important one, by the paper. Norms and biases are left out: they are few, and near 1 or near 0.
    """

    stack: str
    layer: int
    tensors: int
    n: int
    mean: float = _NAN
    std: float = _NAN
    skewness: float = _NAN
    kurtosis: float = _NAN
    zero_pct: float = _NAN
    zd_weight: float = _NAN
    rank: int | None = None


def measure_weights(
    model: Model,
    tensors: Sequence[TensorInfo],
    *,
    threads: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[WeightStatistics], list[LayerWeights]]:
    """Statistics of the tensors, in their order, and of their layers; ``progress`` gets bytes as they are done.

    Every byte is read twice (``readable_bytes`` counts it once). Memory is some 16 MiB per thread. FormatError if the
    file got shorter meanwhile.
    """
    readable = [tensor for tensor in tensors if _readable(tensor)]
    with _Pool(model, threads, progress) as pool:
        sums = _sums_of(pool, readable)
        whole = [tensor for tensor in readable if math.isfinite(sums[tensor.name].moments.total)]
        layers = _layers(whole, sums)
        above = _above_of(pool, whole, sums, layers)
    rows = {tensor.name: _row(tensor, sums[tensor.name], above[tensor.name][0]) for tensor in whole}
    return [rows.get(tensor.name) or _bare(tensor) for tensor in tensors], _ranked(layers, whole, above)


def readable_bytes(tensors: Sequence[TensorInfo]) -> int:
    """Bytes of the tensors that can be decoded."""
    return sum(tensor.nbytes for tensor in tensors if _readable(tensor))


def is_matrix(tensor: TensorInfo) -> bool:
    """Whether a tensor is a matrix or several, not a norm or a bias."""
    return sum(n > 1 for n in tensor.shape) > 1


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of a tensor that are decoded together."""

    tensor: TensorInfo
    first: int
    n_rows: int


@dataclass(frozen=True, slots=True)
class _Sums:
    moments: Moments
    zeros: int


_NONE = _Sums(Moments(), 0)


class _Pool:
    """Threads that decode pieces and give them to a function; what it returns comes in the order of the pieces."""

    def __init__(self, model: Model, threads: int, progress: Callable[[int], None] | None) -> None:
        self._model, self._progress = model, progress
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="gguftool")

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *trouble: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def over(
        self, tensors: Iterable[TensorInfo], work: Callable[[TensorInfo, _Floats], _T]
    ) -> Iterator[tuple[str, _T]]:
        """(tensor's name, ``work`` of the tensor and a piece of its values), piece by piece."""
        pieces = [piece for tensor in tensors for piece in _pieces(tensor)]
        results = self._threads.map(lambda piece: work(piece.tensor, _values(self._model, piece)), pieces)
        for piece, result in zip(pieces, results, strict=True):
            yield piece.tensor.name, result
            if self._progress:
                self._progress(piece.n_rows * piece.tensor.type.row_nbytes(piece.tensor.shape[-1]))


def _readable(tensor: TensorInfo) -> bool:
    t = tensor.type
    woven = t.rows_interleaved > 1
    return bool(tensor.n_elements) and t.kind != "int" and (t.name in UNPACKABLE or (not woven and can_decode(t)))


def _pieces(tensor: TensorInfo) -> Iterator[_Piece]:
    n_cols, weave = tensor.shape[-1], tensor.type.rows_interleaved
    n_rows = tensor.n_elements // n_cols
    step = max(1, TASK_ELEMENTS // n_cols // weave) * weave
    for first in range(0, n_rows, step):
        yield _Piece(tensor, first, min(step, n_rows - first))


def _values(model: Model, piece: _Piece) -> _Floats:
    """The decoded rows of a piece, end to end."""
    t, n_cols = piece.tensor.type, piece.tensor.shape[-1]
    nbytes = t.row_nbytes(n_cols)
    raw = np.empty((piece.n_rows, nbytes), np.uint8)
    model.read_into(piece.tensor, piece.first * nbytes, raw)
    if t.name in UNPACKABLE and t.unpacked is not None:
        raw, t = unpack_rows(raw, t, n_cols), type_by_name(t.unpacked)
    return decode(raw, t, n_cols).ravel()


def _sums_of(pool: _Pool, tensors: Sequence[TensorInfo]) -> dict[str, _Sums]:
    """The first walk. A tensor with a NaN or an Inf has no sums."""
    found = dict.fromkeys((tensor.name for tensor in tensors), _NONE)
    for name, more in pool.over(tensors, lambda _, x: _sums(x)):
        held = found[name]
        found[name] = _Sums(joined(held.moments, more.moments), held.zeros + more.zeros)
    return found


def _sums(x: _Floats) -> _Sums:
    point, s1, s2, s3, s4, least, most, zeros = power_sums(x)
    n = x.size
    if not math.isfinite(s1):
        return _Sums(Moments(n, math.nan, least, most), 0)
    d = s1 / n  # how far the mean lies from the point that the powers were taken about
    m2 = max(0.0, s2 - n * d * d)
    m3 = s3 - 3 * d * s2 + 2 * n * d**3
    m4 = max(0.0, s4 - 4 * d * s3 + 6 * d * d * s2 - 3 * n * d**4)
    return _Sums(Moments(n, n * point + s1, float(least), float(most), m2, m3, m4), int(zeros))


def _above_of(
    pool: _Pool, tensors: Sequence[TensorInfo], sums: Mapping[str, _Sums], layers: Mapping[_Place, _Sums]
) -> dict[str, tuple[int, int]]:
    """The second walk: weights above mean + std of their tensor, and of their layer (0 for what is in none)."""
    bounds = {}
    for tensor in tensors:
        own = sums[tensor.name].moments
        layer = layers[_place(tensor)].moments if _place(tensor) in layers and is_matrix(tensor) else None
        bounds[tensor.name] = (own.mean + own.std, layer.mean + layer.std if layer else math.inf)
    found = {tensor.name: (0, 0) for tensor in tensors}
    for name, (one, other) in pool.over(tensors, lambda tensor, x: count_above(x, *bounds[tensor.name])):
        found[name] = (found[name][0] + one, found[name][1] + other)
    return found


def _place(tensor: TensorInfo) -> _Place:
    return layer_of(tensor.name) or ("", -1)


def _layers(tensors: Sequence[TensorInfo], sums: Mapping[str, _Sums]) -> dict[_Place, _Sums]:
    """Sums over the matrices of every layer."""
    found: dict[_Place, _Sums] = {}
    for tensor in tensors:
        if is_matrix(tensor) and (place := layer_of(tensor.name)) is not None:
            held, more = found.get(place, _NONE), sums[tensor.name]
            found[place] = _Sums(joined(held.moments, more.moments), held.zeros + more.zeros)
    return found


def _ranked(
    layers: Mapping[_Place, _Sums], tensors: Sequence[TensorInfo], above: Mapping[str, tuple[int, int]]
) -> list[LayerWeights]:
    """The rows of the layers, by place."""
    matrices: dict[_Place, list[str]] = {}
    for tensor in tensors:
        if is_matrix(tensor):
            matrices.setdefault(_place(tensor), []).append(tensor.name)
    zd = {place: sum(above[name][1] for name in matrices[place]) / sums.moments.n for place, sums in layers.items()}
    ranks = {place: rank for rank, place in enumerate(sorted(zd, key=lambda place: (zd[place], place)), 1)}
    found = []
    for place in sorted(layers):
        m = layers[place].moments
        zero_pct = 100.0 * layers[place].zeros / m.n
        found.append(
            LayerWeights(
                *place,
                len(matrices[place]),
                m.n,
                m.mean,
                m.std,
                m.skewness,
                m.kurtosis,
                zero_pct,
                zd[place],
                ranks[place],
            )
        )
    return found


def _bare(tensor: TensorInfo) -> WeightStatistics:
    stack, layer, kind = place_of(tensor.name)
    return WeightStatistics(tensor.name, layer, kind, stack, tensor.type.name, is_matrix(tensor), tensor.n_elements)


def _row(tensor: TensorInfo, sums: _Sums, above: int) -> WeightStatistics:
    m = sums.moments
    return replace(
        _bare(tensor),
        mean=m.mean,
        std=m.std,
        min=m.least,
        max=m.most,
        abs_max=max(abs(m.least), abs(m.most)),
        skewness=m.skewness,
        kurtosis=m.kurtosis,
        zero_pct=100.0 * sums.zeros / m.n,
        zd_weight=above / m.n,
    )
