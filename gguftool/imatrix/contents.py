"""What opening an importance matrix finds: where every entry lies, and everything except the values themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gguftool.format.metadata import Metadata

NO_METADATA = Metadata({})


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one entry lies. Its ``n_mat * n_cols`` float32 begin at byte ``sums_at``, signed sums at ``signed_at``.

    ``counts`` int64 [n_mat]: rows of activations per matrix. A stored value times ``scale`` is a raw sum of squares.
    The older format stores the mean times ``n_calls`` (None in GGUF). ``unit_is_filler``: a matrix whose means are all
    exactly 1 was never used; the older format's writers fill such matrices in. ``dropped`` matrices count as
    zeros, whatever their values are.
    """

    name: str
    n_mat: int
    n_cols: int
    counts: npt.NDArray[np.int64]
    sums_at: int
    signed_at: int | None = None
    scale: float = 1.0
    n_calls: int | None = None
    unit_is_filler: bool = False
    dropped: frozenset[int] = frozenset()

    @property
    def n_values(self) -> int:
        """Values over all matrices."""
        return self.n_mat * self.n_cols


@dataclass(frozen=True, slots=True)
class Contents:
    """A file's entries by name, in file order, and what it says of its making.

    ``chunk_size`` in tokens is None where the file does not know it. ``ignored`` names tensors that belong to no entry.
    ``nextn_layers``: how many of the last layers predict further tokens, None where the file does not say. ``extra``:
    metadata beyond the usual, ``n_figures`` entries come with figures computed when the file was written.
    """

    format: str
    slots: Mapping[str, Slot]
    datasets: tuple[str, ...]
    chunk_count: int | None
    chunk_size: int | None
    warnings: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    nextn_layers: int | None = None
    extra: Metadata = NO_METADATA
    n_figures: int = 0


#: Tokens per chunk where a file does not say; llama-imatrix's default.
CHUNK_SIZE = 512


def several(found: list[str], what: str) -> list[str]:
    """One warning for any number of names; none for no name."""
    if not found:
        return []
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [f"{', '.join(found[:3])}{more}: {what}"]
