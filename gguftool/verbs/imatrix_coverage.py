"""What an importance matrix covers: which experts its text reached, and which weights of a model it has nothing for."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gguftool.errors import UsageError
from gguftool.imatrix.aliases import same_input
from gguftool.imatrix.coverage import LayerCoverage, TensorCoverage, layer_coverage, tensor_coverage
from gguftool.imatrix.file import Imatrix
from gguftool.verbs.imatrix_files import Reading, opened
from gguftool.verbs.imatrix_model import Expected, expected


@dataclass(frozen=True, slots=True)
class Sparse:
    """One entry of which some matrices got fewer tokens than asked for: those without any, and the others."""

    name: str
    n_mat: int
    never: tuple[int, ...]
    below: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Against:
    """An importance matrix held against a model. ``missing`` weights have no entry though they should,
    ``not_collected`` have none as usual, ``alias`` names those of the missing whose input another entry saw.
    ``disagreeing``: entry, its (n_mat, n_cols), the weight's. ``spare`` entries are for no weight of the model."""

    model: Path
    n_weights: int
    missing: tuple[Expected, ...]
    not_collected: tuple[Expected, ...]
    alias: dict[str, str]
    disagreeing: tuple[tuple[str, tuple[int, int], tuple[int, int]], ...]
    spare: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """``tensors`` by layer, ``layers`` that have experts, ``sparse`` entries; ``against`` a model if one was given.

    ``complete``: no matrix below ``min_tokens``, no weight without the entry it should have, no width that differs.
    """

    path: Path
    format: str
    tensors: tuple[TensorCoverage, ...]
    layers: tuple[LayerCoverage, ...]
    sparse: tuple[Sparse, ...]
    min_tokens: int
    against: Against | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def complete(self) -> bool:
        held = self.against
        return not self.sparse and (held is None or not (held.missing or held.disagreeing))


def imatrix_coverage(
    path: str | Path,
    *,
    model: str | Path | None = None,
    min_tokens: int = 1,
    chunk_size: int | None = None,
    experts: int | None = None,
    keep_fillers: bool = False,
) -> Coverage:
    """What the file covers; no values are read but those that tell a filled-in expert of the older form.

    Matrices with fewer than ``min_tokens`` tokens are ``sparse``. With ``model`` its weights are looked up as a
    quantizer does. Arguments and errors otherwise as for ``convert_imatrix``.
    """
    if min_tokens < 1:
        raise UsageError(f"{min_tokens} is no number of tokens to ask for: 1 or more")
    with ExitStack() as files:
        (imatrix,), notes, warnings = opened(
            [path], Reading(chunk_size, model, experts, keep_fillers), files, writing=False
        )
        rows = tensor_coverage(imatrix)
        if imatrix.format == "dat" and any(row.n_mat > 1 for row in rows):
            notes.append(f"{imatrix.path}: the older form says which experts were reached, not by how many tokens")
        sparse = [found for row in rows if (found := _sparse(imatrix, row, min_tokens)) is not None]
        return Coverage(
            imatrix.path, imatrix.format, tuple(rows), tuple(layer_coverage(rows)), tuple(sparse), min_tokens,
            against(imatrix, model) if model is not None else None, tuple(notes), tuple(warnings),
        )  # fmt: skip


def against(imatrix: Imatrix, model: str | Path) -> Against:
    """The file held against a model's weights, by name and shape; the older form may have joined their matrices."""
    weights = expected(model)
    names = frozenset(imatrix.names)
    absent = [weight for name, weight in weights.items() if name not in names]
    aliases = {weight.name: found for weight in absent if (found := _alias(imatrix, weight)) is not None}
    disagreeing = [
        (name, imatrix.shape(name), (weight.n_mat, weight.n_cols))
        for name, weight in weights.items()
        if name in names and not _fits(imatrix.shape(name), weight)
    ]
    return Against(
        Path(model), len(weights),
        tuple(weight for weight in absent if not weight.why_absent),
        tuple(weight for weight in absent if weight.why_absent),
        aliases, tuple(disagreeing), tuple(name for name in imatrix.names if name not in weights),
    )  # fmt: skip


def _alias(imatrix: Imatrix, weight: Expected) -> str | None:
    """An entry that saw the same input: one that ``repair`` copies, or that a quantizer takes."""
    names = frozenset(imatrix.names)
    for name in same_input(weight.name)[1:]:
        if name in names and _fits(imatrix.shape(name), weight):
            return name
    found = imatrix.lookup(weight.name)
    return found[0] if found is not None and _fits(imatrix.shape(found[0]), weight) else None


def _fits(shape: tuple[int, int], weight: Expected) -> bool:
    return shape in ((weight.n_mat, weight.n_cols), (1, weight.n_mat * weight.n_cols))


def _sparse(imatrix: Imatrix, row: TensorCoverage, min_tokens: int) -> Sparse | None:
    counts = imatrix.counts(row.name)
    few = counts < min_tokens if row.tokens is not None else counts == 0
    if not few.any():
        return None
    never = np.flatnonzero(counts == 0)
    return Sparse(row.name, row.n_mat, tuple(never.tolist()), tuple(np.flatnonzero(few & (counts > 0)).tolist()))
