"""A model as rows over depth: its ops, its layers or its blocks, whichever still fit.

A row is a stretch of consecutive ops. What it shows is the tensor at its end: where the next row starts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gradlint.findings import Finding, Location, ModuleFacts, NodeFacts, TargetReport
from gradlint.wording import covered

__all__ = ["Row", "rows"]

_COARSE = 4  # blocks that fill less than a quarter of the room say less than a few layers per row
_FEW = 3  # layers that are so few say less than their ops: a loop in Python that calls one cell


@dataclass(frozen=True)
class Row:
    """Consecutive ops.

    Args:
        name: path of the module, or the op.
        kind: the module's class and the ops behind it.
        location: where it is built, else where it is called.
        rms: log2 of the rms of the tensor at its end; None where it is not known, ``-inf`` where it is zero.
        gradient: log2 of the norm of the gradient there, over that at the model's output; likewise.
        findings: those that blame something in it, the worst first.
        node: the op at its end.
    """

    name: str
    kind: str
    location: Location | None
    rms: float | None
    gradient: float | None
    findings: tuple[Finding, ...] = ()
    node: str = ""


@dataclass(frozen=True)
class _Stretch:
    """Ops that become a row; ``key`` is the module that they are in."""

    key: str
    nodes: tuple[NodeFacts, ...]
    name: str = ""


def rows(target: TargetReport, findings: Sequence[Finding], limit: int) -> list[Row]:
    """The rows of a model in the order of its forward, ``limit`` at most.

    Args:
        findings: of this model.
    """
    types = {name: dtype for name, _, dtype in (text.partition(": ") for text in target.inputs)}
    known = [node for node in target.nodes if node.rms is not None or node.grad_rms is not None]
    inputs = [node for node in known if node.location is None and node.op in types]
    nodes = [node for node in known if node not in inputs]
    inputs = [node for node in inputs if types[node.op].startswith(("float", "bfloat", "half", "double", "complex"))]
    bits = _gradients(target, [*inputs, *nodes])
    modules = {module.name: module for module in target.modules}
    marks = [(finding, _blamed(finding, target)) for finding in findings]
    stretches = [*(_Stretch("", (node,)) for node in inputs), *_folded(nodes, max(limit - len(inputs), 1))]
    return [_row(stretch, modules, bits, marks) for stretch in stretches]


def _folded(nodes: Sequence[NodeFacts], limit: int) -> list[_Stretch]:
    """The finest way to divide the ops that has room."""
    finest = found = [_Stretch(node.module, (node,)) for node in nodes]
    depth = max((node.module.count(".") + 1 for node in nodes), default=0)
    for level in range(depth, 0, -1):
        if len(found) <= limit:
            return found
        coarser = _joined(nodes, level)
        if len(coarser) <= _FEW if found is finest else len(coarser) * _COARSE <= limit:
            break
        found = coarser
    per_row = math.ceil(len(found) / limit)
    return found if per_row <= 1 else [_merged(found[start : start + per_row]) for start in range(0, len(found), per_row)]


def _joined(nodes: Iterable[NodeFacts], level: int) -> list[_Stretch]:
    """Ops in the same module, down to ``level`` names of its path; what a parent does after it belongs to it."""
    found: list[tuple[str, list[NodeFacts]]] = []
    for node in nodes:
        key = ".".join(node.module.split(".")[:level])
        if found and (key == found[-1][0] or _inside(found[-1][0], key)):
            found[-1][1].append(node)
        else:
            found.append((key, [node]))
    return [_Stretch(key, tuple(inside)) for key, inside in found]


def _inside(module: str, parent: str) -> bool:
    return bool(module) and (not parent or module.startswith(f"{parent}."))


def _merged(part: Sequence[_Stretch]) -> _Stretch:
    """Neighbours in one row."""
    first, last = _called(part[0]), _called(part[-1])
    (parent, _, start), (other, _, end) = first.rpartition("."), last.rpartition(".")
    name = f"{first}…{end}" if parent == other and start.isdigit() and end.isdigit() else f"{first} … {last}"
    return part[0] if len(part) == 1 else _Stretch("", tuple(node for stretch in part for node in stretch.nodes), name)


def _called(stretch: _Stretch) -> str:
    return stretch.key or stretch.nodes[0].name


def _row(
    stretch: _Stretch,
    types: Mapping[str, ModuleFacts],
    bits: Mapping[str, float | None],
    marks: Sequence[tuple[Finding, Sequence[str]]],
) -> Row:
    last = stretch.nodes[-1]
    module = types.get(stretch.key) if stretch.key else None
    inside = {node.module for node in stretch.nodes}
    found = [finding for finding, blamed in marks if any(_within(pattern, inside) for pattern in blamed)]
    found.sort(key=lambda finding: -finding.severity.rank)
    place = module.location if module is not None and module.location is not None else last.location
    return Row(
        stretch.name or _called(stretch),
        _kind(stretch, module),
        found[0].location or place if found else place,
        None if last.rms is None else _log2(last.rms),
        bits[last.name],
        tuple(found),
        last.name,
    )


def _kind(stretch: _Stretch, module: ModuleFacts | None) -> str:
    """The class of the module, and the ops that are not in it, where they are few."""
    name = _called(stretch)
    own = [node.op for node in stretch.nodes if module is None or not f"{node.module}.".startswith(f"{stretch.key}.")]
    ops = [op for op in dict.fromkeys(own) if op != name]
    return ", ".join(([] if module is None else [module.type]) + (ops if len(ops) <= 2 and not stretch.name else []))


def _gradients(target: TargetReport, nodes: Sequence[NodeFacts]) -> dict[str, float | None]:
    """Node to the bits of its gradient's norm over that of the output.

    Those on the way that all gradient takes are known beyond the range of floats.
    """
    spine = {hop.node: hop.total_log2 for hop in target.path}
    norms = {node.name: _norm(node) for node in nodes}
    known = [norm - spine[name] for name, norm in norms.items() if name in spine and norm is not None and math.isfinite(norm)]
    ends = [norm for norm in norms.values() if norm is not None and math.isfinite(norm)]
    output = known[-1] if known else ends[-1] if ends else 0.0
    return {name: spine.get(name, None if norm is None else norm - output) for name, norm in norms.items()}


def _norm(node: NodeFacts) -> float | None:
    return None if node.grad_rms is None else _log2(node.grad_rms) + math.log2(max(math.prod(node.shape), 1)) / 2


def _log2(x: float) -> float:
    return -math.inf if x == 0.0 else math.log2(x)


def _blamed(finding: Finding, target: TargetReport) -> list[str]:
    """The modules that a finding blames, or patterns of them; the model as a whole is none."""
    found: dict[str, None] = {}
    for name in (name for instance in finding.instances or (finding.module,) for name in instance.split(", ")):
        owners = [p.name.rpartition(".")[0] for p in target.parameters if covered(p.name, name)]
        found |= dict.fromkeys(owners or [name])
    return [name for name in found if name]


def _within(pattern: str, modules: Iterable[str]) -> bool:
    """Whether one of the modules is blamed, or lies in one that is."""
    length = pattern.count(".") + 1
    return any(covered(".".join(module.split(".")[:length]), pattern) for module in modules)
