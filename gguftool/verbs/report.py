"""Everything that a report on an importance matrix shows: statistics, coverage of experts, the model it is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gguftool.format.reader import Model, TensorInfo, open_model
from gguftool.imatrix.coverage import TensorCoverage, tensor_coverage
from gguftool.imatrix.file import Imatrix, open_imatrix
from gguftool.recipe.eligible import why_kept
from gguftool.recipe.facts import TensorFacts
from gguftool.verbs.info import ModelInfo, summed_up
from gguftool.verbs.provenance import tool_version
from gguftool.verbs.stats import Statistics, stats

if TYPE_CHECKING:
    from gguftool.verbs.weights import Weights


@dataclass(frozen=True, slots=True)
class ExpertTokens:
    """Coverage of an entry of several experts, and the tokens of each; ``counted`` is False where the file says only
    which were reached."""

    coverage: TensorCoverage
    tokens: tuple[int, ...]

    @property
    def counted(self) -> bool:
        return self.coverage.tokens is not None


@dataclass(frozen=True, slots=True)
class ModelTensor:
    """A tensor of the model. ``entry`` is the importance it takes, or None; ``why_kept`` says why it needs none."""

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int
    bpw: float
    entry: str | None
    why_kept: str | None


@dataclass(frozen=True, slots=True)
class ModelPart:
    """The model beside the importance matrix. ``unused``: entries for which it has no tensor; ``misfits`` say which
    entries have another width or another number of experts than their tensors. ``weights`` are None if not measured."""

    info: ModelInfo
    header_sha256: str
    tensors: tuple[ModelTensor, ...]
    unused: tuple[str, ...]
    misfits: tuple[str, ...]
    weights: Weights | None


@dataclass(frozen=True, slots=True)
class Report:
    """What a page is made of; ``sha256`` and ``nbytes`` are of the importance matrix's file."""

    version: str
    sha256: str
    nbytes: int
    statistics: Statistics
    experts: tuple[ExpertTokens, ...]
    model: ModelPart | None


def report(imatrix: str | Path, model: str | Path | None = None, *, weights: Weights | None = None) -> Report:
    """The facts of a report on an importance matrix; with a model also what it spends on which tensor.

    ``weights`` are the statistics of its weights, if they are to stand there: ``weight_statistics(model)``. Otherwise
    only the header of the model is read, of the importance matrix everything. FormatError, ImatrixError for bad files.
    """
    found = stats(imatrix)
    with open_imatrix(imatrix) as stored:
        sha256, nbytes = stored.sha256, stored.path.stat().st_size
        experts = _experts(stored)
        beside = None
        if model is not None:
            with open_model(model) as opened:
                beside = _model_part(opened, stored, weights)
    return Report(tool_version(), sha256, nbytes, found, experts, beside)


def _experts(stored: Imatrix) -> tuple[ExpertTokens, ...]:
    whole = stored.with_experts(stored.inferred_experts())
    return tuple(
        ExpertTokens(row, tuple(whole.counts(row.name).tolist())) for row in tensor_coverage(whole) if row.n_mat > 1
    )


def _model_part(model: Model, stored: Imatrix, weights: Weights | None) -> ModelPart:
    tensors = tuple(_model_tensor(tensor, stored) for tensor in model.tensors)
    used = {tensor.entry for tensor in tensors}
    unused = tuple(name for name in stored.names if name not in used)
    misfits = tuple(line for tensor in tensors if (line := _misfit(tensor, stored)) is not None)
    return ModelPart(summed_up(model), model.shards[0].header_sha256, tensors, unused, misfits, weights)


def _model_tensor(tensor: TensorInfo, stored: Imatrix) -> ModelTensor:
    found = stored.lookup(tensor.name)
    bpw = 8 * tensor.nbytes / tensor.n_elements if tensor.n_elements else 0.0
    kept = why_kept(TensorFacts(tensor.name, tensor.shape, tensor.type))
    return ModelTensor(
        tensor.name, tensor.type.name, tensor.shape, tensor.nbytes, bpw, found[0] if found else None, kept
    )


def _misfit(tensor: ModelTensor, stored: Imatrix) -> str | None:
    if tensor.entry is None or len(tensor.shape) < 2:
        return None
    n_mat, n_cols = stored.shape(tensor.entry)
    n_experts = 1
    for size in tensor.shape[:-2]:
        n_experts *= size
    if (n_mat, n_cols) in ((n_experts, tensor.shape[-1]), (1, n_experts * tensor.shape[-1])):
        return None
    wanted = f"{n_experts} x {tensor.shape[-1]}"
    return f"{tensor.name}: the importance has {n_mat} x {n_cols} values, the tensor needs {wanted}"
