"""Which way the gradient takes, where it grows, block by block, and what of it is whose doing: random models."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gradlint
from gradlint.blocks import depth_law
from gradlint.config import Settings
from gradlint.paths import Paths, find_paths
from gradlint.rule import Context

WIDTH = 12


class Sum(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.branch, self.scale = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)), scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.a(x)) * self.b(x)


class Join(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(WIDTH, WIDTH // 2)
        self.b = nn.Linear(WIDTH, WIDTH - WIDTH // 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x)], -1)


class Times(nn.Module):
    """Times a learned number that is made of a parameter first."""

    def __init__(self, log: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(log))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.exp(self.log)


def linear(gain: float) -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(WIDTH))
    return layer


LAYERS: dict[str, Callable[[float], nn.Module]] = {
    "linear": linear,
    "relu": lambda gain: nn.ReLU(),
    "tanh": lambda gain: nn.Tanh(),
    "norm": lambda gain: nn.LayerNorm(WIDTH),
    "sum": Sum,
    "gate": lambda gain: Gate(),
    "join": lambda gain: Join(),
    "times": Times,
}
STACKS = st.lists(st.tuples(st.sampled_from(sorted(LAYERS)), st.floats(0.3, 3.0)), min_size=1, max_size=7)


def analysed(stack: list[tuple[str, float]]) -> gradlint.Analysis:
    return gradlint.analyze(
        lambda: nn.Sequential(linear(1.0), *[LAYERS[kind](gain) for kind, gain in stack], linear(1.0)), (torch.randn(6, WIDTH),)
    )


@settings(max_examples=40, deadline=None)
@given(STACKS)
def test_every_gain_is_the_product_of_its_causes(stack: list[tuple[str, float]]) -> None:
    context = Context(analysed(stack), "stack", Settings())
    paths = context.paths
    assert paths.log2 is not None
    by_cause: dict[str, float] = {}
    for segment in paths.segments:
        by_cause[segment.cause] = by_cause.get(segment.cause, 0.0) + segment.log2
        assert segment.log2 == pytest.approx(paths.gains[segment.end] - paths.gains[segment.start], abs=1e-9)
    assert sum(by_cause.values()) == pytest.approx(paths.log2, abs=1e-9)
    assert sum(factor.log2 for factor in context.causes(paths.segments)) == pytest.approx(paths.log2, abs=0.05 * len(by_cause))
    for i, (name, bits) in enumerate(paths.layers.items()):  # and so is the gain to any layer, on the way there
        until = next(k for k, s in enumerate(paths.segments) if s.parameter == name)
        assert sum(s.log2 for s in paths.segments[:until]) == pytest.approx(bits, abs=1e-9), i


@settings(max_examples=40, deadline=None)
@given(STACKS)
def test_the_route_passes_what_all_gradient_passes(stack: list[tuple[str, float]]) -> None:
    paths = find_paths(analysed(stack))
    assert paths.route is not None
    assert 0.0 < paths.route.share <= 1.0 + 1e-9
    assert set(paths.dominators) <= set(paths.route.nodes)
    ways = {"sum", "gate", "join"}.intersection(kind for kind, _ in stack)
    assert (paths.route.share == pytest.approx(1.0)) == (not ways)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["sum", "linear", "join", "tanh"]), st.floats(0.3, 3.0)), min_size=1, max_size=4))
def test_no_path_carries_more_than_the_route(stack: list[tuple[str, float]]) -> None:
    analysis = analysed(stack)
    flowed, route = analysis.flowed, find_paths(analysis).route
    assert route is not None
    graph: nx.DiGraph[str] = nx.DiGraph()
    for edge in flowed.edges:
        if edge.producer in flowed.backward:
            known = graph.get_edge_data(edge.consumer, edge.producer, {"share": 0.0})["share"]
            graph.add_edge(edge.consumer, edge.producer, share=known + flowed.arrived(edge) / flowed.energy(edge.producer))
    shares = {
        tuple(path): math.prod(graph.edges[pair]["share"] for pair in pairwise(path))
        for path in nx.all_simple_paths(graph, flowed.traced.output, route.nodes[-1])
    }
    assert max(shares.values()) == pytest.approx(route.share, rel=1e-6)
    assert shares[route.nodes] == pytest.approx(route.share, rel=1e-6)
    assert sum(shares.values()) == pytest.approx(1.0, rel=0.02)  # energy is additive up to what branches have in common


@settings(max_examples=40, deadline=None)
@given(STACKS, st.sampled_from([-1, 1]))
def test_the_worst_stretch_is_the_worst(stack: list[tuple[str, float]], sign: int) -> None:
    paths = find_paths(analysed(stack))
    bits = [sign * s.log2 for s in paths.segments]
    best = max((sum(bits[i:j]) for i in range(len(bits)) for j in range(i, len(bits) + 1)), default=0.0)
    assert sum(sign * s.log2 for s in paths.worst(sign)) == pytest.approx(max(best, 0.0), abs=1e-9)


def test_a_learned_factor_is_no_residual_sum() -> None:
    paths = find_paths(analysed([("times", 2.0)]))
    assert [s.cause for s in paths.segments] == ["weights", "scale", "weights"]
    assert paths.segments[1].log2 == pytest.approx(2.0 / math.log(2), rel=1e-3)


@pytest.mark.parametrize(("kind", "cause"), [("sum", "residual"), ("gate", "gate"), ("join", "concatenation")])
def test_a_region_is_called_by_what_joins_it(kind: str, cause: str) -> None:
    assert [s.cause for s in find_paths(analysed([(kind, 1.0)])).segments] == ["weights", cause, "weights"]


# ---- blocks -----------------------------------------------------------------------------------------------------------


class Stream(nn.Module):
    """``x + f(norm(x))``, f of gain one."""

    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False) if norm else nn.Identity()
        self.branch = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.branch.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self.norm(x))


def stream(norm: bool, depth: int = 16) -> Paths:
    return find_paths(
        gradlint.analyze(lambda: nn.ModuleDict({"blocks": nn.Sequential(*[Stream(64, norm) for _ in range(depth)])})["blocks"],
                         (torch.randn(8, 64),))
    )  # fmt: skip


def test_residual_sums_without_a_norm_grow_exponentially() -> None:
    (repeat,) = stream(norm=False).repeats
    assert repeat.pattern == "{}"
    assert repeat.modules == tuple(str(i) for i in range(16))
    assert repeat.log2 == pytest.approx([0.5] * 15, abs=1e-6)
    assert repeat.law.kind == "exponential"
    assert repeat.law.rate == pytest.approx(0.5)
    assert repeat.law.critical(9.0) == 18
    assert repeat.law.critical(-9.0) is None


def test_residual_sums_of_normed_branches_grow_with_the_root_of_depth() -> None:
    (repeat,) = stream(norm=True).repeats
    assert repeat.law.kind == "algebraic"
    assert repeat.law.rate == pytest.approx(0.5, abs=0.05)
    assert repeat.law.at(15) == pytest.approx(2.0, abs=0.2)
    assert repeat.law.critical(9.0) == pytest.approx(2**18, rel=1.0)  # 0.5·log2(n + 1) = 9


def test_blocks_inside_blocks_are_not_counted_again() -> None:
    def build() -> nn.Module:
        return nn.Sequential(*[nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh()) for _ in range(5)])

    paths = find_paths(gradlint.analyze(build, (torch.randn(8, 16),)))
    assert [r.pattern for r in paths.repeats] == ["{}"]
    assert len(paths.repeats[0].modules) == 5


def test_two_blocks_are_no_repetition() -> None:
    paths = find_paths(gradlint.analyze(lambda: nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)), (torch.randn(8, 16),)))
    assert paths.repeats == ()


@given(st.floats(-2.0, 2.0).filter(lambda r: abs(r) > 0.01), st.integers(3, 60), st.booleans())
def test_a_law_recovers_its_rate(rate: float, count: int, exponential: bool) -> None:
    gains = [rate * (1.0 if exponential else math.log2((i + 1) / i)) for i in range(2, count + 2)]
    law = depth_law(gains)
    assert law.kind == ("exponential" if exponential else "algebraic")
    assert law.rate == pytest.approx(rate)
    assert law.error == pytest.approx(0.0, abs=1e-9)
    depth = law.critical(math.copysign(5.0, rate))
    if depth is not None:
        assert abs(law.at(depth)) <= 5.0 + 1e-6 < abs(law.at(depth + 1)) + 1e-5
