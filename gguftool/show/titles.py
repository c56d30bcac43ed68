"""What the columns of statistics are called, and how each is read: one line per figure, for every face that shows them.

A column that has no line here is shown under its own name, so that a new statistic appears by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scale = Literal["own", "plain", "ratio", "change", "tail"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A column: a ``title`` for people, a short ``head`` for tables, a ``note`` on what high and low mean.

    ``scale``, as in the charts: "own" carries the scale of its kind's activations, so that only multiples of the kind's
    median compare; "plain" compares as it is; of a "ratio" 1 means no change; a "tail" has a few huge values.
    """

    key: str
    title: str
    head: str
    note: str = ""
    scale: Scale = "plain"


_WORDS = {
    "name": ("Tensor", "tensor", ""),
    "layer": ("Layer", "layer", ""),
    "kind": ("Kind of tensor", "kind", ""),
    "stack": ("Stack of layers", "stack", ""),
    "n_mat": ("Experts", "experts", "Matrices in the tensor."),
    "n_reached": ("Experts reached", "reached", "Matrices that any token came to."),
    "n_cols": ("Input channels", "columns", "Input channels of one matrix."),
    "tokens": ("Tokens", "tokens", "Tokens that went in, summed over experts."),
    "n": ("Channels measured", "N", "Channels of all reached matrices: the sample of every figure."),
    "sum": (
        "Sum of mean squares", "Σ x²",
        "Energy that goes into the tensor. High: an error in its weights costs more.",
    ),
    "mean": ("Mean square per channel", "mean x²", "Energy per input channel. High: an error in a weight costs more."),
    "min": ("Least mean square", "min x²", "The quietest channel. Near 0: a channel that nothing goes through."),
    "max": ("Greatest mean square", "max x²", "The loudest channel. Far above the mean: an outlier channel."),
    "std": (
        "Deviation over channels", "std",
        "How much the channels differ. High against the mean: few channels dominate.",
    ),
    "active_pct": (
        "Active channels, %", "active %",
        "Channels above 1e-5. Below 100: dead channels; the threshold is absolute, so scales matter.",
    ),
    "active_rel_pct": (
        "Active channels against the median, %", "active rel %",
        "Channels above 1e-4 of the median channel. Below 100: channels that hardly matter.",
    ),
    "entropy": ("Entropy, bits", "entropy", "How evenly the channels share the energy. Low: few channels carry it."),
    "entropy_norm_pct": (
        "Entropy, % of maximum", "entropy %",
        "100: all channels carry the same. Low: few channels carry the energy, so weighting by importance helps most.",
    ),
    "zd_pct": (
        "Channels more than one deviation above the mean, %", "ZD %",
        "Low: a few channels stand out far. High: no single outliers.",
    ),
    "cossim": (
        "Cosine with the nearest earlier layer", "cossim",
        "1: the input has the same profile as one layer before. Low: the layer before changed it.",
    ),
    "distance": ("Layers back to the one compared", "back", "1 unless the layers between lack the tensor."),
    "pearson": (
        "Correlation with the nearest earlier layer", "pearson",
        "As the cosine, but of deviations from the mean, so that a common level does not count.",
    ),
    "covariance": ("Covariance with the nearest earlier layer", "cov", "Not scaled: grows with the activations."),
    "l2": (
        "L2 distance to the nearest earlier layer", "L2",
        "0: the same profile and level. Grows with the activations.",
    ),
    "gain": (
        "Gain over the nearest earlier layer", "gain",
        "Root mean square against the earlier layer's. Above 1: activations grow here; below 1: they shrink.",
    ),
    "skewness": (
        "Skewness over channels", "skew",
        "0: as many channels above as below. High: a tail of loud channels.",
    ),
    "kurtosis": (
        "Excess kurtosis over channels", "kurtosis", "0 as in a normal distribution. High: rare but extreme channels.",
    ),
    "reached_pct": ("Experts reached, %", "reached %", "Below 100: experts that no token came to have no importance."),
    "routing_entropy": ("Routing entropy, bits", "routing", "How evenly tokens spread over the experts."),
    "routing_entropy_pct": (
        "Routing entropy, % of maximum", "routing %",
        "100: tokens spread evenly over the experts. Low: few experts get most of them.",
    ),
    "expert_entropy_min": (
        "Least entropy of an expert, bits", "expert ent. min",
        "The expert with the fewest loud channels.",
    ),
    "expert_entropy_median": (
        "Median entropy of the experts, bits", "expert ent. med",
        "Of the channels of single experts.",
    ),
    "expert_entropy_max": (
        "Greatest entropy of an expert, bits", "expert ent. max",
        "The expert with the evenest channels.",
    ),
    "least": ("Least tokens of an expert", "least", "Few tokens: a noisy importance."),
    "median": ("Median tokens of an expert", "median", ""),
    "most": ("Most tokens of an expert", "most", "Far above the median: a favourite."),
    "u_mean": ("Mean of the signed means", "u mean", "Far from 0: inputs with an offset."),
    "u_std": ("Deviation of the signed means", "u std", "High: channels with offsets of their own."),
    "u_skewness": ("Skewness of the signed means", "u skew", ""),
    "u_kurtosis": ("Excess kurtosis of the signed means", "u kurt", ""),
    "u_cossim": ("Cosine of the signed means with the earlier layer", "u cossim", "1: offsets of the same direction."),
    "u_pearson": ("Correlation of the signed means with the earlier layer", "u pearson", ""),
    "u_covariance": ("Covariance of the signed means with the earlier layer", "u cov", ""),
    "u_l2": ("L2 distance of the signed means to the earlier layer", "u L2", "Compare it with its noise floor."),
    "l2_noise": (
        "Noise floor of that L2 distance", "L2 noise",
        "What sampling alone gives. Distances near it say nothing.",
    ),
    "variance": ("Variance per channel over tokens", "variance", "Energy without the constant part."),
    "constant_pct": (
        "Constant channels, %", "constant %",
        "Channels that hardly vary over tokens: an offset, no signal.",
    ),
    "duplicate_of": ("Same input as", "same input as", "The first tensor of the layer that sees the same input."),
    "mtp": ("Layer for next-token prediction", "mtp", ""),
    "tensors": ("Tensors", "tensors", "Tensors of the layer with an importance."),
    "total": ("Sum over the layer's tensors", "sum", "Every tensor counts, though some see the same input."),
    "weighted_sum": (
        "Average of sums, weighted by width", "weighted sum",
        "llama-imatrix's: quadratic in a tensor's width.",
    ),
    "compared": ("Tensors with a cosine", "compared", "Tensors that have a partner in an earlier layer."),
    "inputs": ("Distinct inputs", "inputs", "Inputs of the layer, each counted once."),
    "total_inputs": ("Sum over distinct inputs", "sum of inputs", "Every input counts once."),
    "cossim_pooled": (
        "Cosine with earlier layers, pooled", "cossim pooled",
        "Of all channels as one vector. 1: hardly changed.",
    ),
    "pearson_pooled": ("Correlation with earlier layers, pooled", "pearson pooled", "Of all channels as one vector."),
    "u_cossim_pooled": ("Cosine of the signed means, pooled", "u cossim pooled", ""),
    "u_pearson_pooled": ("Correlation of the signed means, pooled", "u pearson pooled", ""),
    "gap": ("Layers missing directly before", "gap", "0 unless the file lacks layers."),
    "type": ("Type in the model", "type", ""),
    "parameters": ("Parameters", "parameters", ""),
    "share_pct": ("Share of the bytes, %", "% of bytes", ""),
    "shape": ("Shape", "shape", "Rows first, row length last."),
    "nbytes": ("Bytes in the model", "bytes", ""),
    "bpw": ("Bits per weight in the model", "bpw", "What the model spends on a weight of this tensor."),
    "zd_weight": (
        "Share of weights more than one deviation above the mean", "ZD weight",
        "Low: few weights stand out far; such layers are the important ones, its paper finds. A normal distribution "
        "has 0.1587.",
    ),
    "rank": ("Rank by ZD of the weights", "rank", "1: the layer with the smallest share."),
    "w_mean": ("Mean of the weights", "w mean", ""),
    "w_std": ("Deviation of the weights", "w std", ""),
    "w_min": ("Least weight", "w min", ""),
    "w_max": ("Greatest weight", "w max", ""),
    "w_abs_max": (
        "Largest weight by size", "w abs max", "Far above the deviation: a scale spends its range on few weights.",
    ),
    "w_skewness": ("Skewness of the weights", "w skew", ""),
    "w_kurtosis": ("Excess kurtosis of the weights", "w kurt", "0 as in a normal distribution. High: heavy tails."),
    "w_zero_pct": ("Weights that are exactly 0, %", "w zero %", "Of what the file decodes to, whatever its types."),
}  # fmt: skip

_SCALES: dict[Scale, str] = {
    "own": "sum total weighted_sum total_inputs mean std min max l2 l2_noise covariance variance u_mean u_std "
    "u_covariance u_l2 nbytes w_mean w_std w_min w_max w_abs_max",
    "ratio": "gain",
    "tail": "skewness kurtosis u_skewness u_kurtosis w_skewness w_kurtosis n least median most",
}
_SCALE_OF: dict[str, Scale] = {key: scale for scale, keys in _SCALES.items() for key in keys.split()}


def figure_of(key: str) -> Figure:
    """The words for a column; those of an unknown one are made from its name."""
    title, head, note = _WORDS.get(key, (key.replace("_pct", ", %").replace("_", " "), key.replace("_", " "), ""))
    return Figure(key, title[:1].upper() + title[1:], head, note, _SCALE_OF.get(key, "plain"))
