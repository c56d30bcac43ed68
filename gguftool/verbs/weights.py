"""What a model's weights look like, per tensor and per layer: their distribution, and ZD as its paper defines it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gguftool.errors import UsageError
from gguftool.format.reader import Model, TensorInfo, open_model
from gguftool.imatrix.contents import several
from gguftool.imatrix.figures import columns, values
from gguftool.imatrix.statistics import by_kind
from gguftool.run.weights import LayerWeights, WeightStatistics, measure_weights, readable_bytes
from gguftool.verbs.stats import check_some, pattern

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Weights:
    """Statistics of a model's weights: one row per tensor, one per layer; ``warnings`` name what has none."""

    path: Path
    by_tensor: tuple[WeightStatistics, ...]
    by_layer: tuple[LayerWeights, ...]
    warnings: tuple[str, ...]

    def stats(self) -> pd.DataFrame:
        """One row per tensor, sorted by kind and layer."""
        import pandas as pd

        return pd.DataFrame([values(row) for row in self.by_tensor], columns=list(columns(WeightStatistics)))

    def layers(self) -> pd.DataFrame:
        """One row per layer."""
        import pandas as pd

        return pd.DataFrame([values(row) for row in self.by_layer], columns=list(columns(LayerWeights)))


def weight_statistics(
    model: str | Path | Model,
    *,
    tensors: str | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Weights:
    """Statistics of the weights of a GGUF, of any types that can be decoded; all cores if ``threads`` is None.

    ``tensors`` is a regular expression, searched in the names: only those count, in layers too. ``progress`` gets bytes
    done and in all. FormatError for a damaged file, UsageError for no model, or an expression that is none.
    """
    wanted = pattern(tensors)
    if not isinstance(model, Model):
        with open_model(model) as opened:
            return weight_statistics(opened, tensors=tensors, threads=threads, progress=progress)
    if model.metadata.get("general.type") == "imatrix":
        raise UsageError(f"{model.path}: this is an importance matrix, not a model: it has no weights")
    chosen = [tensor for tensor in model.tensors if wanted(tensor.name)]
    check_some(chosen, tensors, model.path)
    hollow = set(model.hollow())
    whole = [tensor for tensor in chosen if tensor not in hollow]
    total, done = 2 * readable_bytes(whole), 0

    def step(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress:
            progress(done, total)

    rows, layers = measure_weights(model, whole, threads=threads or os.cpu_count() or 1, progress=step)
    return Weights(model.path, tuple(sorted(rows, key=by_kind)), tuple(layers), _warnings(rows, chosen, whole))


def _warnings(rows: list[WeightStatistics], chosen: list[TensorInfo], whole: list[TensorInfo]) -> tuple[str, ...]:
    cut = [tensor.name for tensor in chosen if tensor not in set(whole)]
    undecoded = [f"{row.name} ({row.type})" for row in rows if row.n and row.abs_max != row.abs_max]
    return (
        *several(cut, "its end is missing from the file, so it has no statistics (gguftool verify says more)"),
        *several(undecoded, "no statistics: a type that is not decoded, or NaN or Inf (gguftool verify says which)"),
    )
