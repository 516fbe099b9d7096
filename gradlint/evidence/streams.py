"""Residual streams: chains of sums ``x + f(x)``, where each sum starts from the one before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gradlint.evidence.calls import Op, Ops, Ref
from gradlint.flowed import Flowed
from gradlint.moments import Moments
from gradlint.trace.names import NORMS

__all__ = ["Stream", "find_streams"]

_SUMS = ("add", "iadd")
_FEWEST = 3


@dataclass(frozen=True)
class Stream:
    """One chain of residual sums.

    Args:
        sums: in order of execution.
        rms: of the stream in front of the first sum, then behind each.
        branches: root mean square of what each sum adds.
        entering: a norm is the first thing each branch does.
        leaving: the stream behind the last sum goes through a norm before anything else.
    """

    sums: tuple[Op, ...]
    rms: tuple[float, ...]
    branches: tuple[float, ...]
    entering: bool
    leaving: bool


def find_streams(flowed: Flowed, ops: Ops) -> tuple[Stream, ...]:
    """The chains of three sums or more, in order of execution, each sum in the longest chain that it ends or belongs to."""
    before: dict[str, tuple[str, str, str]] = {}  # a sum: the stream's operand, the branch's, the sum before
    for call in ops.calls.values():
        found = _residual(ops, call, before)
        if found is not None:
            before[call.name] = found
    followed = {previous for _, _, previous in before.values()}
    streams = []
    for last in before:
        if last in followed:
            continue
        chain = [last]
        while before[chain[-1]][2] in before:
            chain.append(before[chain[-1]][2])
        if len(chain) >= _FEWEST:
            streams.append(_stream(flowed, ops, before, chain[::-1]))
    return tuple(stream for stream in streams if stream is not None)


def _residual(ops: Ops, call: Op, known: Mapping[str, tuple[str, str, str]]) -> tuple[str, str, str] | None:
    """The stream's and the branch's operand of a sum, and where the stream comes from."""
    operands = [x.node for x in call.args[:2] if isinstance(x, Ref) and x.parameter is None]
    if call.op not in _SUMS or len(operands) < 2:
        return None
    for stream, branch in (operands, operands[::-1]):
        source = _back(ops, stream)
        if source in _made_of(ops, branch, source, known):
            return stream, branch, source
    return None


def _back(ops: Ops, name: str) -> str:
    """Where a stream comes from, back through moves and single functions (the ReLU behind a sum)."""
    at = ops.origin(name)
    while (call := ops.calls.get(at)) is not None and call.op not in _SUMS and len(call.inputs) == 1:
        at = ops.origin(call.inputs[0].node)
    return at


def _made_of(ops: Ops, branch: str, source: str, known: Mapping[str, tuple[str, str, str]]) -> set[str]:
    """Nodes that a branch is made of, not looking behind the stream or earlier sums of it."""
    seen: set[str] = set()
    waiting = [branch]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name != source and name in ops.calls and not (name in known and len(seen) > 1):
            waiting += [ref.node for ref in ops.calls[name].inputs if ref.parameter is None]
    return seen


def _stream(flowed: Flowed, ops: Ops, before: Mapping[str, tuple[str, str, str]], chain: list[str]) -> Stream | None:
    laws = [flowed.forward.get(n) for n in (before[chain[0]][0], *chain)]
    added = [flowed.forward.get(before[n][1]) for n in chain]
    if not all(isinstance(law, Moments) for law in (*laws, *added)):
        return None
    entering = all(_normed(ops, before[n][2], n) for n in chain)
    leaving = ops.normalised(chain[-1])
    rms = tuple(law.rms for law in laws if isinstance(law, Moments))
    branches = tuple(law.rms for law in added if isinstance(law, Moments))
    return Stream(tuple(ops.calls[n] for n in chain), rms, branches, entering, leaving)


def _normed(ops: Ops, source: str, sum_: str) -> bool:
    """All that a sum's branch takes from the stream goes through a norm first."""
    if any(ops.origin(root) == ops.origin(source) for root in ops.handwritten.values()):
        return True
    users = list(ops.ahead(source, lambda c: len(c.inputs) == 1 and c.op not in NORMS and c.op not in _SUMS))
    first = [c for c in users if c.name != sum_]
    return bool(first) and all(c.op in NORMS or c.op in _SUMS for c in first) and any(c.op in NORMS for c in first)
