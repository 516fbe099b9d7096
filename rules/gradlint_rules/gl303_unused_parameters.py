"""GL303 unused-parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradlint.rule import Claim, Context, Finding, Location, Place, Rule, Severity, collapse

__all__ = ["UnusedParameters"]


class UnusedParameters(Rule):
    """Parameters that no output depends on.

    ## What it finds
    Trainable parameters from which no differentiable path leads to any output of the model, on the inputs that it was run on: a
    layer that forward does not call, a branch for inputs that were not given, a value that was detached.

    ## Why it matters
    Their ``.grad`` stays None. ``DistributedDataParallel`` stops at them unless it is told to look for them
    (``find_unused_parameters=True``), and they cost memory. A layer that was built and never called may also be a mistake.

    ## How it is computed
    By following the graph from every output back through all ops that record a gradient.

    ## What to do
    Remove the layer, call it, or freeze it with ``requires_grad_(False)``. Where it belongs to another input, describe
    that input with ``--input``.

    ## When to ignore it
    When the layer is for another mode or modality than the one that was checked.

    ## References
    PyTorch documentation of ``torch.nn.parallel.DistributedDataParallel``.
    """

    code = "GL303"
    name = "unused-parameters"
    severity = Severity.INFO

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[Location | None, list[str]] = {}
        for name in context.unused:
            groups.setdefault(context.parameters[name].location, []).append(name)
        for place, names in groups.items():
            many = len(names) > 1
            yield self.finding(
                context,
                place,
                f"no output depends on {f'{len(names)} parameters built here' if many else names[0]}",
                module=names[0].rpartition(".")[0],
                evidence={"quantity": "parameters in use", "measured": 0, "expected": len(names)},
                instances=[collapse(names)],
                fix="remove the layer, call it in forward, or freeze it with requires_grad_(False)",
                claim=Claim(tuple(Place("parameter", name) for name in names), -math.inf),
            )
