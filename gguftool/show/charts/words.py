"""What the charts know about statistics: a title, and how values become colours or heights.

A statistic has one of five scales. ``own``: it carries the scale of its kind's activations, so that only multiples of
the kind's median compare. ``plain``: percentages, bits, cosines, which compare as they are. ``ratio``: 1 means no
change. ``change``: signed, 0 means none. ``tail``: zero and moderate values matter as much as huge ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scale = Literal["own", "plain", "ratio", "change", "tail"]


@dataclass(frozen=True, slots=True)
class Words:
    title: str
    scale: Scale = "plain"


_KNOWN = {
    "sum": Words("sum of mean squares", "own"),
    "total": Words("sum of mean squares, all tensors", "own"),
    "weighted_sum": Words("sum of mean squares, by channels", "own"),
    "mean": Words("mean square per channel", "own"),
    "std": Words("std of mean squares over channels", "own"),
    "min": Words("least mean square", "own"),
    "max": Words("greatest mean square", "own"),
    "l2": Words("L2 distance to the layer before", "own"),
    "l2_noise": Words("noise floor of the L2 distance", "own"),
    "active_pct": Words("channels above 1e-5, %"),
    "active_rel_pct": Words("channels above 1e-4 of the median, %"),
    "entropy": Words("entropy of the channels, bits"),
    "entropy_norm_pct": Words("entropy of the channels, % of maximum"),
    "expert_entropy_min": Words("entropy of an expert's channels, least, bits"),
    "expert_entropy_median": Words("entropy of an expert's channels, median, bits"),
    "expert_entropy_max": Words("entropy of an expert's channels, greatest, bits"),
    "zd_pct": Words("ZD: channels > mean + 1 std, %"),
    "zd_weight": Words("ZD of the weights: > mean + 1 std, %"),
    "cossim": Words("cosine with the layer before"),
    "cossim_pooled": Words("cosine with the layer before, pooled"),
    "pearson": Words("Pearson correlation with the layer before"),
    "pearson_pooled": Words("Pearson with the layer before, pooled"),
    "covariance": Words("covariance with the layer before", "own"),
    "gain": Words("gain over the layer before", "ratio"),
    "skewness": Words("skewness of the channels", "tail"),
    "kurtosis": Words("excess kurtosis of the channels", "tail"),
    "u_mean": Words("mean of the signed means", "own"),
    "u_std": Words("std of the signed means", "own"),
    "u_skewness": Words("skewness of the signed means", "tail"),
    "u_kurtosis": Words("excess kurtosis of the signed means", "tail"),
    "u_cossim": Words("cosine of signed means, layer before"),
    "u_pearson": Words("Pearson of signed means, layer before"),
    "u_covariance": Words("covariance of signed means, layer before", "own"),
    "u_l2": Words("L2 distance of signed means, layer before", "own"),
    "u_cossim_pooled": Words("cosine of signed means, pooled"),
    "u_pearson_pooled": Words("Pearson of signed means, pooled"),
    "variance": Words("variance per channel", "own"),
    "constant_pct": Words("channels that hardly vary, %"),
    "total_inputs": Words("sum of mean squares, inputs once", "own"),
    "n": Words("channels", "tail"),
    "distance": Words("layers back to the one compared with"),
    "tokens": Words("tokens"),
    "reached_pct": Words("matrices that a token reached, %"),
    "least": Words("tokens of the least used expert", "tail"),
    "median": Words("tokens of the median expert", "tail"),
    "most": Words("tokens of the most used expert", "tail"),
    "routing_entropy": Words("entropy of the routing, bits"),
    "routing_entropy_pct": Words("entropy of the routing, % of maximum"),
    "rank_corr": Words("rank correlation of the channels"),
    "cosine": Words("cosine of the channels"),
    "tv": Words("total variation distance of the channels' shares"),
}  # fmt: skip


def words(figure: str) -> Words:
    """The title and scale of a statistic; one that is not known is named as its column and compares as it is."""
    return _KNOWN.get(figure) or Words(figure.replace("_pct", ", %").replace("_", " "))
