"""Every layer class of ``torch.nn`` in a tiny model: what is in front, the layer, what is behind, and an input's shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Layer:
    """One model.

    Args:
        build: makes the whole of it.
        shape: of its one input.
        sampled: no formula is expected.
        tolerance: of the median error of gradients, in bits.
        seeds: of the measurement; a scalar output (a loss) needs many.
    """

    build: Build
    shape: tuple[int, ...]
    sampled: bool = False
    tolerance: float = 0.2
    seeds: int = 12


def made(name: str, *args: Any, **kw: Any) -> Build:
    """A class of ``torch.nn`` with its arguments."""
    return partial(getattr(nn, name), *args, **kw)


class Between(nn.Module):
    """``after(layer(before(x)))``; of several outputs of the layer the first is used."""

    def __init__(self, before: nn.Module, layer: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.layer, self.after = before, layer, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run it."""
        y = self.layer(self.before(x))
        return self.after(y[0] if isinstance(y, tuple) else y)


class Calling(nn.Module):
    """``after(f(layer, *streams))``: a layer with several arguments, each from a linear map of its own."""

    def __init__(self, layer: nn.Module, call: Callable[..., torch.Tensor], streams: list[nn.Module], after: nn.Module) -> None:
        super().__init__()
        self.layer, self.call, self.after = layer, call, after
        self.streams = nn.ModuleList(streams)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run it."""
        return self.after(self.call(self.layer, *(stream(x) for stream in self.streams)))


def tokens(layer: Callable[[], nn.Module], out: int = 32, **kw: Any) -> Layer:
    """Between two linear layers, on vectors of width 32."""
    return Layer(lambda: Between(nn.Linear(24, 32), layer(), nn.Linear(out, 16)), (16, 10, 24), **kw)


def rows(layer: Callable[[], nn.Module], out: int = 32, **kw: Any) -> Layer:
    """Between two linear layers, on a batch of vectors of width 32."""
    return Layer(lambda: Between(nn.Linear(24, 32), layer(), nn.Linear(out, 16)), (64, 24), **kw)


def maps(dims: int, layer: Callable[[], nn.Module], out: int = 16, **kw: Any) -> Layer:
    """Between two convolutions, on maps of 16 channels."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    size = (24,) if dims == 1 else (12,) * 2 if dims == 2 else (8,) * 3
    return Layer(lambda: Between(conv(8, 16, 3, padding=1), layer(), conv(out, 8, 1)), (8, 8, *size), **kw)


def loss(
    layer: Callable[[], nn.Module], call: Callable[..., torch.Tensor], streams: int = 1, width: int = 10, **kw: Any
) -> Layer:
    """A loss on the outputs of linear layers."""
    return Layer(
        lambda: Calling(layer(), call, [nn.Linear(24, width) for _ in range(streams)], nn.Identity()),
        (64, 24),
        seeds=kw.pop("seeds", 60),
        **kw,
    )


def unpooled(dims: int) -> nn.Module:
    """The largest entries of windows, put back where they were."""
    pool, unpool = made(f"MaxPool{dims}d", 2, return_indices=True), made(f"MaxUnpool{dims}d", 2)
    return Calling(unpool(), lambda f, pooled: f(*pooled), [pool()], nn.Identity())


def _labels(n: int, classes: int) -> torch.Tensor:
    return torch.randint(classes, (n,))


def _first(n: int, classes: int) -> torch.Tensor:
    """The one label 3 of each row, then -1: no more."""
    return torch.full((n, classes), -1).index_fill(1, torch.tensor(0), 3)


def _signs(n: int) -> torch.Tensor:
    return torch.randint(2, (n,)) * 2 - 1


LAYERS: dict[str, Layer] = {}

_ACTIVATIONS = """
CELU ELU GELU Hardshrink Hardsigmoid Hardswish LeakyReLU LogSigmoid Mish PReLU RReLU ReLU ReLU6 SELU SiLU Sigmoid Softplus
Softsign Tanh Tanhshrink Identity
"""
LAYERS.update((name, tokens(made(name))) for name in _ACTIVATIONS.split())

LAYERS.update(
    {
        "Hardtanh": tokens(made("Hardtanh", -0.5, 0.7)),
        "Softshrink": tokens(made("Softshrink", 0.2)),
        "Threshold": tokens(made("Threshold", 0.1, 20.0)),
        "GLU": tokens(nn.GLU, 16),
        "Softmin": tokens(lambda: nn.Softmin(-1)),
        "Softmax": tokens(lambda: nn.Softmax(-1)),
        "LogSoftmax": tokens(lambda: nn.LogSoftmax(-1)),
        "Softmax2d": maps(2, nn.Softmax2d),
        # shapes
        "Flatten": Layer(lambda: Between(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 36, 10)), (8, 8, 8, 8)),
        "Unflatten": tokens(lambda: nn.Unflatten(-1, (4, 8)), 8),
        "ChannelShuffle": maps(2, lambda: nn.ChannelShuffle(4)),
        "PixelShuffle": maps(2, lambda: nn.PixelShuffle(2), 4),
        "PixelUnshuffle": maps(2, lambda: nn.PixelUnshuffle(2), 64),
        "Fold": Layer(lambda: Between(nn.Conv1d(8, 72, 1), nn.Fold((6, 6), 3, padding=1), nn.Conv2d(8, 8, 1)), (8, 8, 36)),
        "Unfold": Layer(
            lambda: Between(nn.Conv2d(8, 16, 3, padding=1), nn.Unfold(3, padding=1), nn.Conv1d(144, 8, 1)), (8, 8, 12, 12)
        ),
        # linear
        "Linear": tokens(lambda: nn.Linear(32, 48), 48),
        "Bilinear": Layer(
            lambda: Calling(
                nn.Bilinear(32, 20, 40), lambda f, a, b: f(a, b), [nn.Linear(24, 32), nn.Linear(24, 20)], nn.Linear(40, 16)
            ),
            (64, 24),
        ),
        "Embedding": Layer(
            lambda: Calling(
                nn.Embedding(20, 24), lambda f, x: x + f(torch.arange(10) % 7), [nn.Linear(24, 24)], nn.Linear(24, 16)
            ),
            (16, 10, 24),
        ),
        "EmbeddingBag": Layer(
            lambda: Calling(
                nn.EmbeddingBag(20, 24),
                lambda f, x: x + f(torch.arange(320).reshape(64, 5) % 19),
                [nn.Linear(24, 24)],
                nn.Linear(24, 16),
            ),
            (64, 24),
        ),
        # dropout
        "Dropout": tokens(nn.Dropout),
        "AlphaDropout": tokens(nn.AlphaDropout),
        "FeatureAlphaDropout": maps(2, nn.FeatureAlphaDropout),
        "Dropout1d": maps(1, nn.Dropout1d),
        "Dropout2d": maps(2, nn.Dropout2d),
        "Dropout3d": maps(3, nn.Dropout3d),
        # norms
        "LayerNorm": tokens(lambda: nn.LayerNorm(32)),
        "RMSNorm": tokens(lambda: nn.RMSNorm(32)),
        "BatchNorm1d": rows(lambda: nn.BatchNorm1d(32)),
        "BatchNorm2d": maps(2, lambda: nn.BatchNorm2d(16)),
        "BatchNorm3d": maps(3, lambda: nn.BatchNorm3d(16)),
        "GroupNorm": maps(2, lambda: nn.GroupNorm(4, 16)),
        "InstanceNorm1d": maps(1, lambda: nn.InstanceNorm1d(16, affine=True)),
        "InstanceNorm2d": maps(2, lambda: nn.InstanceNorm2d(16)),
        "InstanceNorm3d": maps(3, lambda: nn.InstanceNorm3d(16)),
        "LocalResponseNorm": maps(2, lambda: nn.LocalResponseNorm(5)),
        "CrossMapLRN2d": maps(2, lambda: nn.CrossMapLRN2d(5), sampled=True),
        # attention, recurrence
        "MultiheadAttention": Layer(
            lambda: Calling(
                nn.MultiheadAttention(32, 4, batch_first=True), lambda f, x: f(x, x, x)[0], [nn.Linear(24, 32)], nn.Linear(32, 16)
            ),
            (16, 10, 24),
        ),
        "MultiheadAttention-extra-rows": Layer(
            lambda: Calling(
                nn.MultiheadAttention(32, 4, batch_first=True, add_bias_kv=True, add_zero_attn=True),
                lambda f, x: f(x, x, x)[0],
                [nn.Linear(24, 32)],
                nn.Linear(32, 16),
            ),
            (16, 10, 24),
            sampled=True,
        ),
        "MultiheadAttention-unbatched": Layer(
            lambda: Calling(nn.MultiheadAttention(32, 4), lambda f, x: f(x, x, x)[0], [nn.Linear(24, 32)], nn.Linear(32, 16)),
            (40, 24),
            sampled=True,
        ),
        "TransformerEncoderLayer": tokens(lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)),
        "TransformerEncoder": tokens(lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 1)),
        "TransformerDecoderLayer": Layer(
            lambda: Calling(
                nn.TransformerDecoderLayer(32, 4, 64, batch_first=True),
                lambda f, a, b: f(a, b),
                [nn.Linear(24, 32), nn.Linear(24, 32)],
                nn.Linear(32, 16),
            ),
            (16, 10, 24),
        ),
        "TransformerDecoder": Layer(
            lambda: Calling(
                nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 64, batch_first=True), 1),
                lambda f, a, b: f(a, b),
                [nn.Linear(24, 32), nn.Linear(24, 32)],
                nn.Linear(32, 16),
            ),
            (16, 10, 24),
        ),
        "Transformer": Layer(
            lambda: Calling(
                nn.Transformer(32, 4, 1, 1, 64, batch_first=True),
                lambda f, a, b: f(a, b),
                [nn.Linear(24, 32), nn.Linear(24, 32)],
                nn.Linear(32, 16),
            ),
            (16, 10, 24),
        ),
        "RNN": tokens(lambda: nn.RNN(32, 48, batch_first=True), 48),
        "LSTM": tokens(lambda: nn.LSTM(32, 48, batch_first=True), 48),
        "GRU": tokens(lambda: nn.GRU(32, 48, batch_first=True), 48),
        "RNNCell": rows(lambda: nn.RNNCell(32, 48), 48),
        "LSTMCell": rows(lambda: nn.LSTMCell(32, 48), 48),
        "GRUCell": rows(lambda: nn.GRUCell(32, 48), 48),
        # distances
        "CosineSimilarity": Layer(
            lambda: Calling(
                nn.CosineSimilarity(-1), lambda f, a, b: f(a, b), [nn.Linear(24, 32), nn.Linear(24, 32)], nn.Identity()
            ),
            (64, 24),
        ),
        "PairwiseDistance": Layer(
            lambda: Calling(
                nn.PairwiseDistance(), lambda f, a, b: f(a, b), [nn.Linear(24, 32), nn.Linear(24, 32)], nn.Identity()
            ),
            (64, 24),
        ),
    }
)

for _d in (1, 2, 3):
    LAYERS.update(
        {
            f"Conv{_d}d": maps(_d, made(f"Conv{_d}d", 16, 24, 3, padding=1), 24),
            f"Conv{_d}d-reflect": maps(_d, made(f"Conv{_d}d", 16, 24, 3, padding=1, padding_mode="reflect"), 24),
            f"Conv{_d}d-replicate": maps(_d, made(f"Conv{_d}d", 16, 24, 3, padding=1, padding_mode="replicate"), 24),
            f"Conv{_d}d-circular": maps(_d, made(f"Conv{_d}d", 16, 24, 3, padding=1, padding_mode="circular"), 24),
            f"Conv{_d}d-same": maps(_d, made(f"Conv{_d}d", 16, 24, 4, padding="same"), 24),
            f"ConvTranspose{_d}d": maps(_d, made(f"ConvTranspose{_d}d", 16, 24, 4, stride=2, padding=1), 24),
            f"LazyConv{_d}d": maps(_d, made(f"LazyConv{_d}d", 24, 3, padding=1), 24),
            f"LazyConvTranspose{_d}d": maps(_d, made(f"LazyConvTranspose{_d}d", 24, 2, stride=2), 24),
            f"LazyBatchNorm{_d}d": maps(_d, made(f"LazyBatchNorm{_d}d")),
            f"LazyInstanceNorm{_d}d": maps(_d, made(f"LazyInstanceNorm{_d}d")),
            f"AvgPool{_d}d": maps(_d, made(f"AvgPool{_d}d", 2)),
            f"MaxPool{_d}d": maps(_d, made(f"MaxPool{_d}d", 2)),
            f"AdaptiveAvgPool{_d}d": maps(_d, made(f"AdaptiveAvgPool{_d}d", 4)),
            f"AdaptiveMaxPool{_d}d": maps(_d, made(f"AdaptiveMaxPool{_d}d", 4)),
            f"AdaptiveMaxPool{_d}d-indices": maps(_d, made(f"AdaptiveMaxPool{_d}d", 4, return_indices=True)),
            f"MaxPool{_d}d-indices": maps(_d, made(f"MaxPool{_d}d", 2, return_indices=True)),
            f"LPPool{_d}d": maps(_d, made(f"LPPool{_d}d", 2, 2)),
            f"ZeroPad{_d}d": maps(_d, made(f"ZeroPad{_d}d", 2)),
            f"ConstantPad{_d}d": maps(_d, made(f"ConstantPad{_d}d", 2, 0.7)),
            f"ReflectionPad{_d}d": maps(_d, made(f"ReflectionPad{_d}d", 2)),
            f"ReplicationPad{_d}d": maps(_d, made(f"ReplicationPad{_d}d", 2)),
            f"CircularPad{_d}d": maps(_d, made(f"CircularPad{_d}d", 2)),
            f"MaxUnpool{_d}d": maps(_d, partial(unpooled, _d), sampled=True),
        }
    )

LAYERS.update(
    {
        "LazyLinear": tokens(lambda: nn.LazyLinear(48), 48),
        "FractionalMaxPool2d": maps(2, lambda: nn.FractionalMaxPool2d(2, output_size=6), sampled=True),
        "FractionalMaxPool3d": maps(3, lambda: nn.FractionalMaxPool3d(2, output_size=4), sampled=True),
        "Upsample": maps(2, lambda: nn.Upsample(scale_factor=2)),
        "Upsample-bilinear": maps(2, lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
        "Upsample-bicubic": maps(2, lambda: nn.Upsample(scale_factor=2, mode="bicubic")),
        "UpsamplingBilinear2d": maps(2, lambda: nn.UpsamplingBilinear2d(scale_factor=2)),
        "UpsamplingNearest2d": maps(2, lambda: nn.UpsamplingNearest2d(scale_factor=2)),
        # losses
        "L1Loss": loss(nn.L1Loss, lambda f, a, b: f(a, b), 2),
        "MSELoss": loss(nn.MSELoss, lambda f, a, b: f(a, b), 2),
        "MSELoss-none": loss(lambda: nn.MSELoss(reduction="none"), lambda f, a, b: f(a, b), 2, seeds=12),
        "SmoothL1Loss": loss(nn.SmoothL1Loss, lambda f, a, b: f(a, b), 2),
        "HuberLoss": loss(lambda: nn.HuberLoss(delta=0.5), lambda f, a, b: f(a, b), 2),
        "CrossEntropyLoss": loss(nn.CrossEntropyLoss, lambda f, a: f(a, _labels(64, 10))),
        "CrossEntropyLoss-smoothed": loss(lambda: nn.CrossEntropyLoss(label_smoothing=0.3), lambda f, a: f(a, _labels(64, 10))),
        "CrossEntropyLoss-weighted": loss(
            lambda: nn.CrossEntropyLoss(weight=torch.linspace(0.1, 2, 10)), lambda f, a: f(a, _labels(64, 10).clamp(min=0))
        ),
        "CrossEntropyLoss-none": loss(
            lambda: nn.CrossEntropyLoss(reduction="none"), lambda f, a: f(a, _labels(64, 10)), seeds=12
        ),
        "CrossEntropyLoss-soft": loss(
            nn.CrossEntropyLoss, lambda f, a: f(a, torch.softmax(torch.randn(64, 10, dtype=a.dtype), -1))
        ),
        "LinearCrossEntropyLoss": Layer(
            lambda: Calling(
                nn.LinearCrossEntropyLoss(24, 10), lambda f, a: f(a, _labels(64, 10)), [nn.Linear(24, 24)], nn.Identity()
            ),
            (64, 24),
            seeds=60,
        ),
        "NLLLoss": loss(nn.NLLLoss, lambda f, a: f(a.log_softmax(-1), _labels(64, 10))),
        "NLLLoss2d": loss(nn.NLLLoss, lambda f, a: f(a.log_softmax(-1), _labels(64, 10))),
        "PoissonNLLLoss": loss(nn.PoissonNLLLoss, lambda f, a: f(a, torch.ones(64, 10, dtype=a.dtype))),
        "GaussianNLLLoss": loss(nn.GaussianNLLLoss, lambda f, a, b: f(a, torch.ones(64, 10, dtype=a.dtype), b.exp()), 2),
        "KLDivLoss": loss(lambda: nn.KLDivLoss(reduction="batchmean"), lambda f, a, b: f(a.log_softmax(-1), b.softmax(-1)), 2),
        "BCELoss": loss(nn.BCELoss, lambda f, a: f(a.sigmoid(), torch.randint(2, (64, 10)).to(a.dtype))),
        "BCEWithLogitsLoss": loss(nn.BCEWithLogitsLoss, lambda f, a: f(a, torch.randint(2, (64, 10)).to(a.dtype))),
        "BCEWithLogitsLoss-weighted": loss(
            lambda: nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), lambda f, a: f(a, torch.randint(2, (64, 10)).to(a.dtype))
        ),
        "SoftMarginLoss": loss(nn.SoftMarginLoss, lambda f, a: f(a, torch.randint(2, (64, 10)).to(a.dtype) * 2 - 1)),
        "HingeEmbeddingLoss": loss(nn.HingeEmbeddingLoss, lambda f, a: f(a, torch.randint(2, (64, 10)).to(a.dtype) * 2 - 1)),
        "MarginRankingLoss": loss(nn.MarginRankingLoss, lambda f, a, b: f(a, b, torch.randint(2, (64, 10)) * 2 - 1), 2),
        "MultiLabelMarginLoss": loss(nn.MultiLabelMarginLoss, lambda f, a: f(a, _first(64, 10)), sampled=True),
        "MultiLabelSoftMarginLoss": loss(nn.MultiLabelSoftMarginLoss, lambda f, a: f(a, torch.randint(2, (64, 10)).to(a.dtype))),
        "MultiMarginLoss": loss(nn.MultiMarginLoss, lambda f, a: f(a, _labels(64, 10)), sampled=True),
        "CosineEmbeddingLoss": loss(nn.CosineEmbeddingLoss, lambda f, a, b: f(a, b, _signs(64)), 2, 32, sampled=True),
        "TripletMarginLoss": loss(nn.TripletMarginLoss, lambda f, a, b, c: f(a, b, c), 3, 32, sampled=True),
        "TripletMarginWithDistanceLoss": loss(
            nn.TripletMarginWithDistanceLoss, lambda f, a, b, c: f(a, b, c), 3, 32, sampled=True
        ),
        "CTCLoss": loss(
            nn.CTCLoss,
            lambda f, a: f(
                a.reshape(16, 4, 10).log_softmax(-1), torch.randint(1, 10, (4, 5)), torch.full((4,), 16), torch.full((4,), 5)
            ),
            sampled=True,
        ),
        "AdaptiveLogSoftmaxWithLoss": Layer(
            lambda: Calling(
                nn.AdaptiveLogSoftmaxWithLoss(24, 30, [10, 20]),
                lambda f, a: f(a, torch.arange(64) % 30).output,
                [nn.Linear(24, 24)],
                nn.Identity(),
            ),
            (64, 24),
        ),
        # weights of weights
        "weight_norm": tokens(lambda: parametrizations.weight_norm(nn.Linear(32, 48)), 48),
        "weight_norm-hook": tokens(lambda: nn.utils.weight_norm(nn.Linear(32, 48)), 48),
        "weight_norm-conv": maps(2, lambda: parametrizations.weight_norm(nn.Conv2d(16, 24, 3, padding=1)), 24),
        "weight_norm-conv-hook": maps(2, lambda: nn.utils.weight_norm(nn.Conv2d(16, 24, 3, padding=1)), 24),
        "spectral_norm": tokens(lambda: parametrizations.spectral_norm(nn.Linear(32, 48)), 48),
        "spectral_norm-hook": tokens(lambda: nn.utils.spectral_norm(nn.Linear(32, 48)), 48),
        "spectral_norm-conv": maps(2, lambda: parametrizations.spectral_norm(nn.Conv2d(16, 24, 3, padding=1)), 24),
        "orthogonal": tokens(lambda: parametrizations.orthogonal(nn.Linear(32, 32)), 32, sampled=True),
        "orthogonal-cayley": tokens(
            lambda: parametrizations.orthogonal(nn.Linear(32, 32), orthogonal_map="cayley"), 32, sampled=True
        ),
    }
)
