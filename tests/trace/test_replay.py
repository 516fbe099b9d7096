"""The recorded graph computes what the model computes, on other weights and inputs than it was recorded on."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradlint.trace import trace
from gradlint.trace.inputs import resolve
from gradlint.trace.state import preserved, seeded
from gradlint.trace.tree import tensors_in


def mlp():
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))


class Block(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.norm2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Conv2d(inner, outer, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        shortcut = self.down(x)
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out += shortcut
        return self.relu(out)


def resnet():
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), Block(8, 8, 1), Block(8, 16, 2))
    return nn.Sequential(stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def encoder():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), 2)


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True)

    def forward(self, src, tgt):
        return self.inner(src, tgt, tgt_mask=nn.Transformer.generate_square_subsequent_mask(tgt.size(1)))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 12, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 3)

    def forward(self, ids):
        _, (hidden, _) = self.lstm(self.table(ids))
        return self.head(torch.cat([hidden[-2], hidden[-1]], 1))


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(8, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, hidden = self.gru(packed)
        out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
        return self.head(out[:, -1]) + self.head(hidden[-1])


class HandWritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.x, self.h = nn.Linear(6, 8), nn.Linear(8, 8, bias=False)

    def forward(self, x):
        batch, length, _ = x.shape
        states, state = torch.zeros(length, batch, 8), x.new_zeros(batch, 8)
        for t in range(length):
            state = torch.tanh(self.x(x[:, t]) + self.h(state))
            states[t].copy_(state)
        states[:, :, 0].mul_(2.0)
        states[1:3] += states[3:5]
        flat = states.view(length, -1)
        flat[0, ::2] = 0
        states.transpose(0, 1)[:, 0] = 1.0
        return states.permute(1, 0, 2)[:, -3:]


class Attention(nn.Module):
    def __init__(self, width, heads, length):
        super().__init__()
        self.qkv, self.project, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads
        self.register_buffer("mask", torch.tril(torch.ones(length, length)).view(1, 1, length, length))

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, c // self.heads).transpose(1, 2) for z in self.qkv(x).split(c, 2))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
        return self.project((F.softmax(scores, -1) @ v).transpose(1, 2).contiguous().view(b, t, c))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 16), nn.Embedding(16, 16)
        self.attend = nn.ModuleList(Attention(16, 2, 16) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, idx, targets=None):
        x = self.tokens(idx) + self.places(torch.arange(idx.size(1)))
        for norm, attend in zip(self.norms, self.attend, strict=True):
            x = x + attend(norm(x))
        return self.head(x), None


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        shallow = F.relu(self.down(x))
        deep = F.leaky_relu_(self.deep(F.max_pool2d(shallow, 2)), 0.1)
        return self.out(torch.cat([shallow, self.up(deep)], 1))


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, grad):
        return grad


class Odd(nn.Module):
    """autograd.Function, both checkpoints, no_grad, detach, reflected operators."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        y = Sign.apply(self.inner(x))
        y = checkpoint(lambda z: self.inner(z).relu(), y, use_reentrant=True)
        y = checkpoint(self.inner, y, use_reentrant=False)
        with torch.no_grad():
            kept = self.inner(y)
        return 1 - (y + kept.detach() - y.data) / 3 + 2 / (y.abs() + 1) + 2**-y


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        y = self.inner(x).clone()
        y[..., 0] = 1.0
        y[y > 0.5] = 0.5
        y[torch.tensor([0, 1]), torch.tensor([2, 3])] = y[0, :2] * 2
        y[torch.tensor([0, 1]), 0] = y[0, 0] * 2
        y.unsqueeze_(0).squeeze_(0)
        y[:, 2:4].add_(1).clamp_(-1, 1)
        y.t()[3].fill_(0.25)
        mask = torch.zeros(8)
        mask[:4] = 1
        eye = torch.eye(8)
        eye[0] = y[0]
        eye.view(4, 2, 8)[1:3, 0] *= 2
        out = torch.zeros(8, dtype=torch.float64)
        out += y.sum(0)
        return y * mask + eye.sum() + out.float()


class Parametrized(nn.Module):
    def __init__(self):
        super().__init__()
        parametrizations = nn.utils.parametrizations
        self.a = parametrizations.weight_norm(nn.Linear(8, 8))
        self.b = parametrizations.spectral_norm(nn.Linear(8, 8))
        self.c = parametrizations.orthogonal(nn.Linear(8, 8))

    def forward(self, x):
        return self.c(self.b(self.a(x)))


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(8, 8), nn.GRUCell(8, 8)

    def forward(self, x):
        h = c = torch.zeros(x.size(0), 8)
        out = []
        for row in x.unbind(1):
            h, c = self.lstm(row, (h, c))
            out.append(self.gru(h, c))
        return torch.stack(out, 1)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(8, 4), nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, which = torch.where(chosen == number)
            if rows.numel():
                out.index_add_(0, rows, expert(x[rows]) * weights[rows, which, None])
        return out


class Contractions(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 2, 4) / 3)
        self.pair = nn.Bilinear(8, 8, 3)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = torch.einsum("bd,dhk->bhk", x, self.w).flatten(1)
        z, _ = self.attend(y[:, None], x[:, None], x[:, None])
        return {"scores": self.pair(x, y), "rest": [z.mT, self.w.T.sum()]}


def lazy():
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(True), nn.Flatten(), nn.LazyLinear(5))


def transformer(name, config, **settings):
    def build():
        transformers = pytest.importorskip("transformers")
        return getattr(transformers, name)(getattr(transformers, config)(**settings))

    build.__name__ = name
    return build


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
DRY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODELS = [
    mlp,
    resnet,
    encoder,
    Translator,
    Classifier,
    Packed,
    HandWritten,
    Gpt,
    UNet,
    Parametrized,
    Cells,
    Contractions,
    lazy,
    transformer("BertModel", "BertConfig", **SMALL, **DRY),
    transformer(
        "GPT2LMHeadModel",
        "GPT2Config",
        n_embd=32,
        n_layer=2,
        n_head=2,
        vocab_size=50,
        bos_token_id=0,
        eos_token_id=1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    ),
    transformer("LlamaForCausalLM", "LlamaConfig", **SMALL, num_key_value_heads=1),
    transformer(
        "T5ForConditionalGeneration",
        "T5Config",
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        vocab_size=50,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    ),
    transformer("ViTModel", "ViTConfig", **SMALL, **DRY, image_size=32, patch_size=8),
]
# What these do depends on the values: they are run again on the same ones.
VALUE_DEPENDENT = [Odd, Writes, Experts]


@pytest.mark.parametrize("build", [*MODELS, *VALUE_DEPENDENT], ids=lambda build: build.__name__)
def test_the_graph_computes_what_the_model_computes(build, replay):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
        traced = trace(build)
        model = traced.model.train()
        given = resolve(model, None)
        inputs = list(given.tensors_of(given.args, given.kwargs))
        if build not in VALUE_DEPENDENT:
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.1).add_(0.003 * torch.randn(parameter.shape, generator=generator))
                for tensor in inputs:
                    if tensor.is_floating_point():
                        tensor.mul_(0.9)
        with seeded(), preserved(model), torch.no_grad():
            expected = [t.clone() for t in tensors_in(model(*given.args, **given.kwargs))]
        with seeded(), preserved(model), torch.no_grad():
            got = tensors_in(replay(traced, inputs))
    assert [tuple(spec.shape) for spec in traced.inputs] == [tuple(t.shape) for t in inputs]
    for want, have in zip(expected, got, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", [mlp, resnet, encoder, Gpt, HandWritten, Cells], ids=lambda build: build.__name__)
def test_gradients_through_the_graph_are_those_of_the_model(build, replay):
    traced = trace(build)
    model = traced.model.train()
    given = resolve(model, None)
    parameters = dict(model.named_parameters())
    with seeded(), preserved(model):
        first = tensors_in(model(*given.args, **given.kwargs))[0]
        expected = torch.autograd.grad(first.square().sum(), list(parameters.values()))
    with seeded(), preserved(model):
        first = tensors_in(replay(traced, list(given.tensors_of(given.args, given.kwargs))))[0]
        got = torch.autograd.grad(first.square().sum(), list(parameters.values()))
    for want, have in zip(expected, got, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)
