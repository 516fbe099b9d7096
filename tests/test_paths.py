"""Where the gradient grows: gains by hand, a spine whose bits add up, causes, loops and the line to blame."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gradlint
from gradlint.config import Settings
from gradlint.paths import Paths, find_paths
from gradlint.rule import Context


def normal(fan_in: int, fan_out: int, gain: float) -> nn.Linear:
    """Without bias; the gradient's norm grows by ``gain``: ‖Wᵀg‖² = fan_in·std²·‖g‖²."""
    layer = nn.Linear(fan_in, fan_out, bias=False)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
    return layer


def paths_of(build, *shape: int) -> Paths:
    return find_paths(gradlint.analyze(build, (torch.randn(*shape),)))


def total(paths: Paths) -> float:
    assert paths.log2 is not None
    return paths.log2


# ---- chains -----------------------------------------------------------------------------------------------------------


def test_the_gain_of_a_chain_is_the_product() -> None:
    paths = paths_of(lambda: nn.Sequential(normal(32, 64, 2.0), normal(64, 16, 0.5), normal(16, 48, 8.0)), 10, 32)
    assert total(paths) == pytest.approx(3.0)  # 1 − 1 + 3 bits
    assert [s.log2 for s in paths.segments] == pytest.approx([3.0, -1.0, 1.0])  # from the loss to the input
    assert [s.cause for s in paths.segments] == ["weights"] * 3
    assert [s.parameter for s in paths.segments] == ["2.weight", "1.weight", "0.weight"]
    assert [s.module for s in paths.segments] == ["2", "1", "0"]


def test_an_activation_has_a_segment_of_its_own() -> None:
    paths = paths_of(lambda: nn.Sequential(normal(64, 64, 1.0), nn.ReLU(), normal(64, 64, 1.0)), 10, 64)
    assert [s.cause for s in paths.segments] == ["weights", "activation", "weights"]
    assert [s.log2 for s in paths.segments] == pytest.approx([0.0, -0.5, 0.0], abs=1e-3)  # half of the entries pass


def test_he_initialisation_keeps_the_gradient() -> None:
    def build() -> nn.Module:
        return nn.Sequential(*[m for _ in range(20) for m in (normal(64, 64, math.sqrt(2)), nn.ReLU())])

    assert total(paths_of(build, 10, 64)) == pytest.approx(0.0, abs=0.05)


def test_a_norm_of_the_input_is_no_layer() -> None:
    """Embeddings of 1e-4 that a norm brings to 1: it multiplies their gradient by 1e4, and no weight's."""

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.layer = nn.Embedding(50, 64), nn.LayerNorm(64, eps=1e-12), normal(64, 64, 2.0)
            nn.init.normal_(self.embed.weight, std=1e-4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.layer(self.norm(self.embed(ids)))

    paths = find_paths(gradlint.analyze(Tiny, (torch.randint(50, (8, 10)),)))
    assert total(paths) == pytest.approx(1.0, abs=0.05)
    assert paths.gains["embedding"] == pytest.approx(1.0 + math.log2(1e4), abs=0.1)


class PreNorm(nn.Module):
    """Embeddings of the given size in a stream of pre-norm blocks; the first branch can be made to gain by itself."""

    def __init__(self, std: float, gain: float = 1.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        nn.init.normal_(self.embed.weight, std=std)
        self.branches = nn.ModuleList(normal(64, 64, gain if i == 0 else 1.0) for i in range(6))
        self.head = normal(64, 64, 1.0)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for branch in self.branches:
            x = x + branch(nn.functional.layer_norm(x, (64,)))
        return self.head(x)


def test_small_embeddings_in_front_of_a_norm_explode_nothing() -> None:
    ids = torch.randint(0, 50, (8, 16))
    large, small, broken = (find_paths(gradlint.analyze(build, (ids,))) for build in (
        lambda: PreNorm(1.0), lambda: PreNorm(1e-3), lambda: PreNorm(1e-3, gain=2.0**6)))  # fmt: skip
    assert large.entry == "embedding"
    assert total(small) < total(large) + 2  # 2^10 at the embeddings: nothing but 1/rms, and no layer hears of it
    assert small.gains["embedding"] == pytest.approx(10, abs=1.5)
    assert total(broken) > 12  # the branch's own six bits are no doing of the embeddings


def test_gains_name_every_node() -> None:
    paths = paths_of(lambda: nn.Sequential(normal(32, 64, 2.0), normal(64, 16, 0.5)), 10, 32)
    starts = [s.start for s in paths.segments]
    assert [paths.gains[name] for name in starts] == pytest.approx([0.0, -1.0])


def test_a_weight_before_a_norm_is_marked() -> None:
    paths = paths_of(
        lambda: nn.Sequential(normal(32, 32, 5.0), nn.LayerNorm(32), normal(32, 32, 5.0), nn.ReLU(), normal(32, 8, 1.0)), 10, 32
    )
    assert [(s.cause, s.normalised) for s in paths.segments] == [
        ("weights", False),
        ("activation", False),
        ("weights", False),
        ("norm", False),
        ("weights", True),
    ]


# ---- segments add up --------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """``x + branch(x)``, the branch's gain is 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = normal(width, width, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


def mixed() -> nn.Module:
    return nn.Sequential(
        nn.Linear(32, 48), nn.Tanh(), Block(48), nn.LayerNorm(48), Block(48), nn.GELU(), nn.Linear(48, 16), nn.Softmax(-1)
    )


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 10)
    )


@pytest.mark.parametrize(("build", "shape"), [(mixed, (6, 32)), (convolutional, (6, 3, 8, 8))])
def test_the_bits_of_the_segments_are_the_total(build, shape: tuple[int, ...]) -> None:
    paths = paths_of(build, *shape)
    assert sum(s.log2 for s in paths.segments) == pytest.approx(total(paths), abs=1e-9)
    for early, late in zip(paths.segments, paths.segments[1:], strict=False):
        assert early.end == late.start


def test_the_total_is_the_norm_at_the_input_over_the_norm_at_the_output() -> None:
    analysis = gradlint.analyze(mixed, (torch.randn(6, 32),))
    source, result = analysis.nodes[0], analysis.nodes[-1]
    assert source.grad_rms is not None
    assert result.grad_rms == 1.0
    norms = source.grad_rms * math.sqrt(6 * 32) / math.sqrt(6 * 16)
    assert total(find_paths(analysis)) == pytest.approx(math.log2(norms))


@pytest.mark.parametrize("depth", [1, 6, 30])
def test_a_residual_block_of_gain_one_adds_half_a_bit(depth: int) -> None:
    paths = paths_of(lambda: nn.Sequential(*[Block(32) for _ in range(depth)]), 10, 32)
    # skip and branch bring one unit of energy each: ‖·‖² doubles
    assert [s.cause for s in paths.segments] == ["residual"] * depth
    assert [s.log2 for s in paths.segments] == pytest.approx([0.5] * depth)
    assert [s.parameter for s in paths.segments] == [f"{i}.branch.weight" for i in reversed(range(depth))]
    assert total(paths) == pytest.approx(depth / 2)


# ---- loops ------------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """``h ← φ(W h + U x_t)``, read at the end."""

    def __init__(self, gain: float, activation: nn.Module) -> None:
        super().__init__()
        self.recurrent, self.drive = normal(32, 32, gain), normal(32, 32, 1.0)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.shape[0], 32)
        for t in range(x.shape[1]):
            h = self.activation(self.recurrent(h) + self.drive(x[:, t]))
        return h


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
def test_a_loop_is_one_weight_at_successive_steps(gain: float) -> None:
    paths = paths_of(lambda: Recurrent(gain, nn.Identity()), 4, 12, 32)
    (loop,) = paths.recurrences  # the weight of the inputs is used as often, but no step feeds the next through it
    assert loop.parameters == ("recurrent.weight",)
    assert (loop.steps, loop.along) == (12, "sequence")
    assert loop.curve.per_step == pytest.approx(math.log2(gain), abs=1e-6)


def test_an_activation_in_the_loop_counts() -> None:
    (loop,) = paths_of(lambda: Recurrent(1.0, nn.Tanh()), 4, 12, 32).recurrences
    assert -2.0 < loop.curve.per_step < -0.1  # tanh′ ≤ 1


def test_segments_of_a_loop_are_recurrence() -> None:
    class Driven(Recurrent):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = x
            for _ in range(6):
                h = self.recurrent(h)
            return h

    paths = paths_of(lambda: Driven(2.0, nn.Identity()), 4, 32)
    assert [s.cause for s in paths.segments] == ["recurrence"] * 6
    assert total(paths) == pytest.approx(6.0)
    assert paths.recurrences[0].steps == 6


def test_an_mlp_has_no_loops() -> None:
    build = lambda: nn.Sequential(*[m for _ in range(8) for m in (nn.Linear(32, 32), nn.Tanh())])  # noqa: E731
    assert paths_of(build, 4, 32).recurrences == ()


def test_two_uses_are_no_loop() -> None:
    def build() -> nn.Module:
        layer = nn.Linear(32, 32)
        return nn.Sequential(layer, nn.Tanh(), layer)

    assert paths_of(build, 4, 32).recurrences == ()


# ---- the line to blame ------------------------------------------------------------------------------------------------


def uneven() -> nn.Module:
    return nn.Sequential(
        *[nn.Linear(32, 32, bias=False) for _ in range(3)],
        *[loud() for _ in range(4)],
        *[quiet() for _ in range(2)],
    )


def loud() -> nn.Module:
    layer = nn.Linear(32, 32, bias=False)
    nn.init.normal_(layer.weight, std=4 / math.sqrt(32))  # loud
    return layer


def quiet() -> nn.Module:
    layer = nn.Linear(32, 32, bias=False)
    nn.init.normal_(layer.weight, std=0.01 / math.sqrt(32))  # quiet
    return layer


@pytest.mark.parametrize(
    ("sign", "layers", "comment"), [(+1, ["6", "5", "4", "3"], "# loud"), (-1, ["8", "7"], "# quiet")], ids=["growth", "decay"]
)
def test_the_worst_group_is_the_line_that_pushes_most(sign: int, layers: list[str], comment: str) -> None:
    context = Context(gradlint.analyze(uneven, (torch.randn(4, 32),)), "uneven", Settings())
    group = context.worst_group(context.paths.segments, sign)
    assert [s.module for s in group] == layers
    place = context.blamed(group[0])
    assert place is not None
    assert place.path.endswith("test_paths.py")
    with open(__file__, encoding="utf-8") as file:  # noqa: PTH123
        line = file.read().splitlines()[place.line - 1]
    assert line.endswith(comment)


def test_causes_are_ordered_by_their_bits() -> None:
    def build() -> nn.Module:
        return nn.Sequential(*[m for _ in range(4) for m in (normal(32, 32, 4.0), nn.ReLU())])

    context = Context(gradlint.analyze(build, (torch.randn(4, 32),)), "stack", Settings())
    factors = context.causes(context.paths.segments)
    assert [f.cause for f in factors] == ["weights", "activation"]
    assert [f.log2 for f in factors] == pytest.approx([8.0, -2.0], abs=0.01)  # 4 × 2 bits, 4 × −½ bit
