"""Charts of importance matrices: functions from frames, or from an ``Imatrix``, to matplotlib figures.

>>> imatrix = gguftool.open_imatrix("imatrix.gguf")
>>> gguftool.charts.heatmap(imatrix.stats(), "entropy_norm_pct")
>>> gguftool.charts.save(gguftool.charts.channels(imatrix, "ffn_down"), "channels.svg")

Every function returns a ``Chart``, a figure that a notebook shows by itself. Colours are told apart by colour-blind
eyes; lines differ by marker as well. Nothing touches ``pyplot`` or the caller's settings.
"""

from gguftool.show.charts.channels import channels
from gguftool.show.charts.difference import difference, moved
from gguftool.show.charts.experts import experts
from gguftool.show.charts.heat import heatmap
from gguftool.show.charts.lines import lines, overview
from gguftool.show.charts.page import Chart, save

__all__ = ["Chart", "channels", "difference", "experts", "heatmap", "lines", "moved", "overview", "save"]
