"""What research code does in a forward, recorded and run again: the graph must give what the model gives.

Each model here is one thing that a tracer can stumble over.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from gradlint.trace import recording, trace
from gradlint.trace.state import preserved, seeded
from gradlint.trace.tree import map_tensors, tensors_in

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(7))


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)


class ViewsOfViews(Base):
    def forward(self, x):
        y = self.a(x).view(3, 2, 4)
        y[:, 0].transpose(0, 1)[1:3].mul_(2)
        y.select(1, 1).narrow(1, 0, 2).zero_()
        first, second = y[:, 0], y[:, 1]
        first += second
        y.diagonal(dim1=0, dim2=1).sigmoid_()
        flat = y.flatten(1)
        flat[:, :2].copy_(flat[:, 4:6])
        return self.b(y.reshape(3, 8))


class Data(Base):
    def forward(self, x):
        y = self.a(x)
        y.data.clamp_(min=-0.5)
        y.data = y.data * 2
        z = self.b(y)
        z.data[:, 0] = 0.0
        return z + self.a.weight.data.sum()


class DataOfParameter(Base):
    """The weight is standardised in place before it is used."""

    def forward(self, x):
        self.a.weight.data.copy_(self.a.weight.data - self.a.weight.data.mean(1, keepdim=True))
        self.b.weight.data = F.normalize(self.b.weight.data, dim=1)
        return self.b(self.a(x))


class TiedModules(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = self.first
        self.third = nn.Linear(8, 8)
        self.third.weight = self.first.weight
        self.bias = self.third.bias

    def forward(self, x):
        return self.third(self.second(self.first(x))) + self.bias + F.linear(x, self.first.weight.t())


class LazyParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.LazyLinear(5)

    def forward(self, *, x):
        return self.head(self.norm(self.conv(x[:, None])).flatten(1))


class Doubled(nn.Module):
    def forward(self, weight):
        return weight - weight.mean()


class OldHooks(nn.Module):
    """Both generations of weight and spectral normalisation, a parametrisation of one's own, cached."""

    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.a = nn.utils.weight_norm(nn.Linear(8, 8))
            self.b = nn.utils.spectral_norm(nn.Linear(8, 8))
        self.c = nn.Linear(8, 8)
        parametrize.register_parametrization(self.c, "weight", Doubled())
        self.d = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def forward(self, x):
        with parametrize.cached():
            return self.d(self.c(self.c(self.b(self.a(x)))))


class Quantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        return (x * scale).round() / scale, x.abs().amax()

    @staticmethod
    def backward(ctx, grad, _):
        return grad, None


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return -grad


quantise = Quantise.apply


class Functions(Base):
    def forward(self, x):
        y, largest = quantise(self.a(x), 4.0)
        return self.b(Reversal.apply(y)) / largest


class FastAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(8, 2, kdim=8, vdim=8, add_bias_kv=True, bias=False)
        self.encode = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, x):
        x = x.view(3, 1, 8).expand(3, 4, 8)
        padding = torch.zeros(3, 4, dtype=torch.bool)
        padding[0, 3] = True
        self.encode.eval()
        y, weights = self.attend(x, x, x, key_padding_mask=padding, need_weights=True, average_attn_weights=False)
        with torch.no_grad():
            target = self.encode(y, src_key_padding_mask=padding)
        z, none = self.cross(y, target, target, need_weights=False)
        assert none is None
        return self.encode(z) + weights.mean()


class Checkpoints(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4))
        self.tower = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))

    def forward(self, x):
        for number, block in enumerate(self.blocks):
            x = checkpoint(block, x, use_reentrant=number % 2 == 0)
        return checkpoint_sequential(self.tower, 2, x, use_reentrant=False)


class Recursive(nn.Module):
    """A tree: each node holds two smaller ones, and calls one of them again."""

    def __init__(self, depth=3):
        super().__init__()
        self.own = nn.Linear(8, 8)
        self.children_ = nn.ModuleList(Recursive(depth - 1) for _ in range(2)) if depth else None

    def forward(self, x, level=0):
        x = self.own(x).tanh()
        if self.children_ is None:
            return x if level >= 2 else self(x, level + 1)
        return self.children_[0](x) + self.children_[1](x) + self.children_[0](x * 2)


class KeywordsOnly(Base):
    def forward(self, *, x, scale=None, **rest):
        return self.b(self.a(x)) * (1.0 if scale is None else scale)


Pair = namedtuple("Pair", ["left", "right"])  # noqa: PYI024 - as research code has them


@dataclass
class Output:
    loss: torch.Tensor
    inner: Pair
    extra: dict
    note: str = "text"


class Structured(Base):
    def forward(self, x):
        hidden = self.a(x)
        return Output(self.b(hidden).square().mean(), Pair(hidden, [hidden + 1, None]), OrderedDict(k=hidden * 2))


class Buffers(Base):
    """A codebook's moving averages, a counter, a buffer that is replaced, and one that is first read after being written."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("bank", torch.zeros(4, 8))

    def forward(self, x):
        y = self.norm(self.a(x))
        self.mean.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
        self.steps += 1
        self.bank[self.steps % 4] = y[0].detach()
        self.bank = torch.roll(self.bank, 1, 0)
        return self.b(y - self.mean) + self.bank.sum(0) / self.steps


class Autocast(Base):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            y = self.a(x)
            with torch.autocast("cpu", enabled=False):
                z = self.b(y.float())
            y = y @ self.b.weight
        return z + y.float() + torch.softmax(self.a(x), -1)


class Shared(nn.Module):
    """One list of layers, walked several times, also backwards."""

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleDict({"in": nn.Linear(8, 8), "out": nn.Linear(8, 8)})
        self.loops = nn.ModuleList([nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)])
        self.gains = nn.ParameterList([nn.Parameter(torch.full((8,), 0.5)) for _ in range(3)])

    def forward(self, x):
        for _ in range(2):
            for layer, gain in zip(self.loops, self.gains, strict=True):
                x = layer(x) * gain
        for layer in reversed(self.loops):
            x = layer(x)
        return sum(step(x) for step in self.steps.values())


class Functional(Base):
    """Weights of its own making: a hypernetwork, functional_call, and weights by name."""

    def forward(self, x):
        made = self.a(x).mean(0)[:, None] * self.b.weight
        y = torch.func.functional_call(self.b, {"weight": made, "bias": self.b.bias}, (x,))
        named = dict(self.a.named_parameters())
        return F.linear(y, named["weight"], named["bias"]) + torch.nn.utils.parameters_to_vector(self.b.parameters()).sum()


class Outs(Base):
    def forward(self, x):
        out = torch.empty(3, 8)
        torch.mul(self.a(x).detach(), 2.0, out=out)
        total = torch.zeros(8)
        torch.sum(out, 0, out=total)
        parts = [self.a(x), self.b(x)]
        torch._foreach_mul_(parts, 0.5)
        return parts[0] + parts[1] + out + total


class Inference(Base):
    def forward(self, x):
        with torch.inference_mode():
            teacher = self.a(x)
            teacher += 1
        return self.b(x) * teacher.clone()


class Complex(Base):
    def forward(self, x):
        spectrum = torch.fft.rfft(self.a(x))
        spectrum[:, 0] = 0
        spectrum = torch.view_as_complex(torch.view_as_real(spectrum) * 2)
        return self.b(torch.fft.irfft(spectrum, n=8)) + spectrum.real.sum() + spectrum.abs().mean()


MODELS = [
    ViewsOfViews,
    Data,
    DataOfParameter,
    TiedModules,
    LazyParts,
    OldHooks,
    Functions,
    FastAttention,
    Checkpoints,
    Recursive,
    KeywordsOnly,
    Structured,
    Buffers,
    Autocast,
    Shared,
    Functional,
    Outs,
    Inference,
    Complex,
]


def outcome(model, args, kwargs):
    args, kwargs = map_tensors((args, kwargs), torch.clone)
    with seeded(), preserved(model):
        return [t.detach().clone() for t in tensors_in(model(*args, **kwargs))]


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_the_graph_computes_what_the_model_computes(build, replay):
    inputs = {"x": X} if build in (LazyParts, KeywordsOnly) else (X,)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
        with recording() as laws:
            model = build()
        before = copy.deepcopy(model.state_dict()) if build is not LazyParts else None
        traced = trace(model, inputs, laws=laws)
        if before is not None:
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        given = traced.arguments
        # Other numbers than those of the recording, but of the same signs and order: these models branch on nothing.
        x = X * 0.9
        model.train()
        expected = outcome(model, (), {"x": x}) if given.kwargs else outcome(model, (x,), {})
        with seeded(), preserved(model), torch.no_grad():
            got = list(tensors_in(replay(traced, [x.clone()])))
    assert len(got) == len(expected)
    for want, have in zip(expected, got, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)
