"""``docs/statistics.md`` has a paragraph on every column, and on no other."""

from __future__ import annotations

import re
from pathlib import Path

from gguftool.imatrix.figures import LayerStatistics, TensorStatistics, columns
from gguftool.run.weights import LayerWeights, WeightStatistics

PAGE = Path(__file__).resolve().parents[2] / "docs" / "statistics.md"


def test_every_column_is_explained_and_nothing_else() -> None:
    explained = re.findall(r"\*\*`(\w+)`\*\*", PAGE.read_text(encoding="utf-8"))
    tables = (TensorStatistics, LayerStatistics, WeightStatistics, LayerWeights)
    assert set(explained) == {name for kind in tables for name in columns(kind)}


def test_columns_that_tables_share_are_explained_where_they_differ() -> None:
    weights = PAGE.read_text(encoding="utf-8").partition("\n## Weights\n")[2]
    layers = PAGE.read_text(encoding="utf-8").partition("\n## Layers\n")[2].partition("\n## ")[0]
    places = {"name", "kind", "stack", "layer", "mtp", "tensors", "n"}
    for text, kinds in ((weights, (WeightStatistics, LayerWeights)), (layers, (LayerStatistics,))):
        for name in {name for kind in kinds for name in columns(kind)} - places:
            assert f"**`{name}`**" in text, name
