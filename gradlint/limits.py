"""Every threshold of the built-in rules, once, each with its source. No torch.

Bits are log2 of a root mean square or of a norm: +1 doubles it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gradlint.fitted import FITTED, SOURCE

__all__ = ["LIMITS", "Limit"]


@dataclass(frozen=True)
class Limit:
    """One threshold, with where it comes from.

    Args:
        warning: beyond it a finding is a warning.
        error: beyond it, an error; infinite where no size of it is known to fail by itself.
        source: a paper, or the measurement.
        unit: of both numbers.
    """

    warning: float
    error: float
    source: str
    unit: str = "bits"


LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "explode": Limit(*FITTED["explode"], f"{SOURCE}; published failures lie above 1e3, the largest healthy model at 3e2"),
        "vanish": Limit(*FITTED["vanish"], f"{SOURCE}; published failures lie below 1e-4, the smallest healthy model at 1e-3"),
        "memory": Limit(*FITTED["memory"], f"{SOURCE}; a hundredth of the gradient, at the steps that the task needs"),
        "steep": Limit(*FITTED["steep"], f"{SOURCE}; CLIP with its temperature, which trains, has 12.6"),
        "residual": Limit(9.0, 10.0, "as explode; plain SGD trained sums that gain 4.5 bits and not those that gain 14.5"),
        "batchnorm_chain": Limit(
            8.3, 13.2, "Yang et al. 2019 (arXiv:1902.08129): log2(π/(π-1))/2 = 0.28 per layer, 30 train half, 48 do not train"
        ),
        "luck": Limit(
            1.6,
            math.inf,
            "Hanin 2018 (arXiv:1801.03744): variance 5 Σ 1/n of ln‖g‖², here 5: 80 % of the draws lie within a factor of 17",
        ),
        "collapse": Limit(
            -8.66, -math.inf, "e^-6: Schoenholz et al. 2017 (arXiv:1611.01232), §5, train to six times the depth scale of 1 − ρ"
        ),
        "collapse_layers": Limit(
            12, math.inf, "default weights make samples alike in six layers, and train; twenty sigmoids do not", "layers"
        ),
        "layer_large": Limit(1.5, math.inf, "He et al. 2015: a layer should keep the variance; 1.5 bits is 8 times it"),
        "layer_small": Limit(-3.0, -math.inf, "default weights give -2.8 bits with a sigmoid, the smallest in common use"),
        "layers_total": Limit(4.0, math.inf, "several deviating layers multiply"),
        "layer_alone": Limit(10.0, math.inf, "one deviating layer shifts a scale, and no more"),
        "activation": Limit(-1.0, -math.inf, "Eφ'² = 1/4: half of the gradient norm per layer; ReLU keeps 2^-0.5"),
        "activation_total": Limit(-6.0, -math.inf, "a sigmoid tower of three layers"),
        "recurrence": Limit(
            5.0, 10.0, "Pascanu et al. 2013: growth is certain above radius 1; T·log2 of it is what training sees"
        ),
        "outlier": Limit(2.0, 8.0, "Baik, Ben Arous & Péché 2005: an outlier above the bulk; twice it dominates", "ratio"),
        "fan": Limit(1.0, math.inf, "half or twice the standard deviation that He et al. 2015 ask for"),
        "loss": Limit(2.0, math.inf, "cross-entropy at the start over ln C; healthy heads give 1.0 to 1.5", "ratio"),
        "logits": Limit(3.0, math.inf, "a softmax of logits of this size is one-hot for few classes", "rms"),
        "scores": Limit(
            32.0, math.inf, "transformers of the fit half of benchmarks/trainability train with attention scores up to 28", "rms"
        ),
        "unnormed": Limit(
            3.0, math.inf, "a stream of size 8 in front of the head; published pre-norm stacks of 3.8 train (ReZero, 12 layers)"
        ),
        "dead": Limit(
            0.5, 0.99, "Lu et al. 2020: a layer of which half is off halves its width; one that is off is gone", "share"
        ),
        "flat": Limit(0.75, 0.95, "tanh of N(0, 64), sigmoid of N(0, 200): three of four entries pass nothing", "share"),
        "amplify": Limit(4.0, 10.0, "16 times in one op, a norm's worth of layers"),
        "unscaled": Limit(1.0, math.inf, "half of Derrida's 2 ln n, where the largest weights begin to dominate", "ln n"),
        "headroom": Limit(0.0, -1.0, "bits left below the largest number of the format, for the largest of the entries"),
        "clip": Limit(5.0, math.inf, "a step 32 times as large as the others; measured, SGD breaks between +5 and +12 bits"),
        "outside": Limit(1e-6, 1e-3, "a tensor of 1e6 entries has one of these per step; of 1e3", "share of entries"),
        "overflow": Limit(0.01, 1.0, "one infinite entry in a hundred steps; in every step", "entries per step"),
        "denominator": Limit(
            1e-4, 1e-2, "a normal denominator whose mean is within two standard deviations of zero", "share of entries"
        ),
    }
)
