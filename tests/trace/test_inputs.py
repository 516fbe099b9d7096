"""Inputs: described, given, guessed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gradlint
from gradlint.errors import InputError
from gradlint.trace import InputSpec, parse_input, trace


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2,3,224,224", InputSpec("", (2, 3, 224, 224), "float32")),
        ("2x3x8x8", InputSpec("", (2, 3, 8, 8), "float32")),
        ("ids:int64:2,128", InputSpec("ids", (2, 128), "int64")),
        ("ids:int64<1000:2,128", InputSpec("ids", (2, 128), "int64", 1000)),
        ("long:2,128", InputSpec("", (2, 128), "int64")),
        ("x:2,3", InputSpec("x", (2, 3), "float32")),
        ("mask:bool:(4, 4)", InputSpec("mask", (4, 4), "bool")),
        ("t:", InputSpec("t", (), "float32")),
    ],
)
def test_parse(text, expected):
    assert parse_input(text) == expected


@pytest.mark.parametrize("text", ["a:b:c:2", "2,-3", "x:float99:2", "1.5", "a b:2"])
def test_parse_refuses(text):
    with pytest.raises(InputError, match="cannot read"):
        parse_input(text)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.side = nn.Embedding(11, 8), nn.Linear(3, 8)

    def forward(self, tokens, features):
        return self.table(tokens).mean(1) + self.side(features)


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(5, 6)

    def forward(self, x, state):
        return self.cell(x, state)[0]


class Diffusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.time = nn.Conv2d(3, 4, 3), nn.Linear(1, 4)

    def forward(self, x, t):
        return self.inner(x) + self.time(t[:, None].float())[:, :, None, None]


class Lengths(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(5, 6, batch_first=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.gru(packed)[1]


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.example_input_array = torch.zeros(3, 7)
        self.inner = nn.Linear(7, 2)

    def forward(self, anything):
        return self.inner(anything)


class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.image_size = 48
        self.patch, self.places = nn.Conv2d(3, 8, 16, 16), nn.Parameter(torch.randn(1, 9, 8))

    def forward(self, image):
        return self.patch(image).flatten(2).mT + self.places


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 26 * 26, 10)

    def forward(self, x):
        return self.head(self.conv(x).flatten(1))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: nn.Linear(5, 2), [(2, 5)]),
        (lambda: nn.Conv2d(3, 4, 3), [(2, 3, 32, 32)]),
        (lambda: nn.Conv1d(3, 4, 3), [(2, 3, 16)]),
        (lambda: nn.Conv3d(1, 2, 3), [(2, 1, 8, 32, 32)]),
        (lambda: nn.LSTM(5, 6, batch_first=True), [(2, 16, 5)]),
        (lambda: nn.TransformerEncoderLayer(8, 2), [(16, 2, 8)]),
        (lambda: nn.GRU(5, 6), [(16, 2, 5)]),
        (lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)), [(4, 5)]),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), [(2, 3, 32, 32)]),
        (lambda: nn.Linear(5, 2).double(), [(2, 5)]),
        (Two, [(2, 16), (2, 3)]),
        (Hidden, [(2, 5), (2, 6), (2, 6)]),
        (Diffusion, [(2, 3, 32, 32), (2,)]),
        (Lengths, [(2, 16, 5), (2,)]),
        (Fixed, [(3, 7)]),
        (Patches, [(2, 3, 48, 48)]),
        (Flat, [(2, 1, 28, 28)]),
    ],
)
def test_guesses(build, expected):
    assert [spec.shape for spec in trace(build).inputs] == expected


def test_integers_stay_below_the_vocabulary():
    tokens, _ = trace(Two).inputs
    assert (tokens.name, tokens.dtype, tokens.high) == ("tokens", "int64", 11)


def test_double_models_get_double_inputs():
    assert trace(nn.Linear(5, 2).double()).inputs[0].dtype == "float64"


def test_given_inputs():
    traced = trace(Two, (torch.randint(0, 11, (3, 4)), torch.zeros(3, 3)))
    assert [(s.name, s.shape) for s in traced.inputs] == [("tokens", (3, 4)), ("features", (3, 3))]
    traced = trace(Two, {"features": torch.zeros(3, 3), "tokens": torch.randint(0, 11, (3, 4))})
    assert [s.name for s in traced.inputs] == ["features", "tokens"]
    assert [n.target for n in traced.graph.nodes if n.op == "placeholder"] == ["features", "tokens"]
    assert trace(nn.Linear(3, 2), torch.zeros(7, 3)).inputs[0].shape == (7, 3)


def test_described_inputs_leave_the_rest_to_be_guessed():
    assert [s.shape for s in trace(Two, ["features:5,3", "tokens:int64:5,9"]).inputs] == [(5, 9), (5, 3)]
    assert [s.shape for s in trace(Two, ["features:1,3"]).inputs] == [(1, 16), (1, 3)]
    assert trace(nn.Linear(3, 2), ["6,3"]).inputs[0].shape == (6, 3)


def test_given_tensors_are_not_written():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            x.mul_(2)
            return self.inner(x)

    x = torch.ones(2, 3)
    trace(Writes, (x,))
    assert x.eq(1).all()


def test_failures_say_what_was_tried():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(5, 2)

        def forward(self, x):
            if x.shape != (9, 9, 9, 9, 5):
                raise ValueError(f"not {tuple(x.shape)}")
            return self.inner(x)

    with pytest.raises(InputError, match=r"accepts; tried x: float32\[2, 5\] \|") as caught:
        trace(Picky)
    assert "--input" in caught.value.hint
    assert __file__ in caught.value.where


def test_failures_for_another_reason_say_so():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(5, 2)

        def forward(self, x):
            return self.missing(x)

    with pytest.raises(InputError, match=r"raised AttributeError: .*missing.*, whatever the input"):
        trace(Broken)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="no argument 'nope'; it has: tokens, features"):
        trace(Two, ["nope:2,3"])
    with pytest.raises(InputError, match="takes 1"):
        trace(nn.Linear(2, 2), ["2,2", "2,2"])
    with pytest.raises(InputError, match="must be a tuple"):
        trace(nn.Linear(2, 2), 3)


class Video(nn.Module):
    """As transformers' models of videos: frames before channels, as many as the configuration says."""

    main_input_name = "pixel_values"

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(num_frames=8, num_channels=3, image_size=16)
        self.conv, self.head = nn.Conv3d(3, 4, (2, 8, 8), stride=(2, 8, 8)), nn.Linear(4 * 4 * 2 * 2, 2)

    def forward(self, pixel_values):
        return self.head(self.conv(pixel_values.transpose(1, 2)).flatten(1))


def test_videos_have_the_frames_of_the_configuration():
    assert [spec.shape for spec in trace(Video).inputs] == [(2, 8, 3, 16, 16)]


class Weighted(nn.Module):
    """A sum that is divided by a count, as trainers hand it to models with a loss of their own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x, y, count):
        return (self.layer(x) * y).sum() / count


def test_a_tensor_that_is_given_twice_is_one_input():
    x = torch.randn(4, 8)
    traced = trace(Weighted, {"x": x, "y": x, "count": torch.tensor(32)})
    assert [spec.name for spec in traced.inputs] == ["x", "count"]
    assert [node.name for node in traced.graph.nodes if node.op == "placeholder"] == ["x", "count"]


def test_a_number_that_is_given_is_what_it_is_and_no_noise():
    x, y = torch.randn(4, 8), torch.randn(4, 8)
    torch.manual_seed(0)
    model = Weighted()
    found = {}
    for count in (32, torch.tensor(32), torch.tensor(32.0)):
        report = gradlint.lint(model, {"x": x, "y": y, "count": count}, fail_on="never")
        assert report.ok
        (found[str(count)],) = [p.grad_rms for p in report.targets[0].parameters if p.name == "layer.weight"]
    assert len({f"{rms:.6g}" for rms in found.values()}) == 1, found
    verified = gradlint.verify(model, {"x": x, "y": y, "count": torch.tensor(32.0)}, fail_on="never")
    assert verified.parameters["layer.weight"].bits < 0.5
