"""Cases of pooling and resampling."""

from __future__ import annotations

from cases import Case, image, law
from torch.nn import functional as F

line = law(4, 12, 20, mean=0.4, along1=0.2)
volume = law(2, 6, 4, 4, 4, mean=0.3)

CASES: list[Case] = [
    Case(F.avg_pool1d, (line, 2)),
    Case(F.avg_pool2d, (image, 2)),
    Case(F.avg_pool2d, (image, 3), {"stride": 2, "padding": 1}),
    Case(F.avg_pool2d, (image, 3), {"stride": 2, "padding": 1, "count_include_pad": False}),
    Case(F.avg_pool2d, (image, 3), {"stride": 2, "ceil_mode": True}),
    Case(F.avg_pool2d, (image, 2), {"divisor_override": 3}),
    Case(F.avg_pool2d, (law(12, 8, 8, mean=0.4), 2)),
    Case(F.avg_pool3d, (volume, 2)),
    Case(F.adaptive_avg_pool1d, (line, 7)),
    Case(F.adaptive_avg_pool2d, (image, 1)),
    Case(F.adaptive_avg_pool2d, (image, (4, 3))),
    Case(F.adaptive_avg_pool3d, (volume, (None, 3, 1))),
    Case(F.lp_pool1d, (law(4, 12, 21, mean=0.3), 2.0, 3)),
    Case(F.lp_pool2d, (image, 2.0, 3), {"stride": 2}, 0.1),
    Case(F.lp_pool3d, (volume, 2, 2)),
    Case(F.max_pool1d, (law(4, 12, 20, along1=0.5), 2)),
    Case(F.max_pool1d_with_indices, (law(4, 12, 20, along1=0.5), 2)),
    Case(F.max_pool2d, (image, 2), {}, 0.08),
    Case(F.max_pool2d, (image, 3), {"stride": 2, "padding": 1}, 0.15),
    Case(F.max_pool2d_with_indices, (law(12, 8, 8), 2), {}, 0.08),
    Case(F.max_pool3d, (volume, 2)),
    Case(F.adaptive_max_pool1d, (line, 5)),
    Case(F.adaptive_max_pool2d, (law(4, 12, 8, 8), 1)),
    Case(F.adaptive_max_pool2d_with_indices, (law(4, 12, 8, 8), (2, None))),
    Case(F.adaptive_max_pool3d, (volume, 2)),
    Case(F.interpolate, (image,), {"scale_factor": 2}),
    Case(F.interpolate, (line,), {"size": 13, "mode": "nearest-exact"}),
    Case(F.interpolate, (image,), {"scale_factor": 2, "mode": "bilinear"}),
    Case(F.interpolate, (image,), {"size": (5, 11), "mode": "bilinear", "align_corners": True}),
    Case(F.interpolate, (image,), {"size": 5, "mode": "bilinear", "antialias": True}),
    Case(F.interpolate, (image,), {"scale_factor": (1.5, 2), "mode": "bicubic"}),
    Case(F.interpolate, (volume,), {"scale_factor": 2, "mode": "trilinear"}),
    Case(F.interpolate, (image,), {"size": 3, "mode": "area"}),
]
