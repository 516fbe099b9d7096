"""GL202 uninitialised-parameter."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.rule import Context, Finding, Location, Rule, Severity, collapse

__all__ = ["UninitialisedParameter"]


class UninitialisedParameter(Rule):
    """Parameters made of memory that nothing was ever written to.

    ## What it finds
    Parameters that come from ``torch.empty``, ``torch.Tensor(n, m)``, ``torch.FloatTensor(n, m)``, ``torch.empty_like``,
    ``new_empty``, ``nn.utils.skip_init`` or ``to_empty``, of which some or all entries are never written while the model
    is built.

    ## Why it matters
    They hold what the memory held before: zeros in one process, 1e38 or NaN in the next. A seed does not help, a test may pass by
    luck, and the loss is NaN on another machine.

    ## How it is computed
    Exactly, without gradients: while the model is constructed every write to the parameter's memory is recorded, with its place.
    Memory that something other than torch was shown (``.numpy()``, ``data_ptr``) counts as written.

    ## What to do
    Initialise it where it is made, with a function of ``torch.nn.init``, or make it of ``torch.zeros`` or ``torch.randn``.

    ## When to ignore it
    When a checkpoint that is always loaded afterwards fills the parameter.

    ## References
    PyTorch documentation of ``torch.empty`` and ``torch.nn.utils.skip_init``.
    """

    code = "GL202"
    name = "uninitialised-parameter"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterable[Finding]:
        """See the class docstring."""
        groups: dict[Location | None, list[str]] = {}
        for name, record in context.parameters.items():
            if record.law.unwritten > 0:
                groups.setdefault(_made(context, name), []).append(name)
        for place, names in groups.items():
            written = 1 - max(context.parameters[name].law.unwritten for name in names)
            one = len(names) == 1
            what = f"{names[0]} is" if one else f"{len(names)} parameters made here are"
            how = f"initialised in {written:.0%} of {'its' if one else 'their'} entries only" if written else "never initialised"
            local = names[0].rpartition(".")[2]
            init = f"kaiming_uniform_({local}, a=5**0.5)" if len(context.parameters[names[0]].shape) > 1 else f"zeros_({local})"
            yield self.finding(
                context,
                place,
                f"{what} {how}: {'it holds' if one else 'they hold'} what the memory held before",
                module=names[0].rpartition(".")[0],
                evidence={"quantity": "share of entries that were written", "measured": written, "expected": 1.0},
                instances=[collapse(names)],
                fix=f"initialise it, for example nn.init.{init}",
            )


def _made(context: Context, name: str) -> Location | None:
    """The line that asked for the memory."""
    law = context.parameters[name].law
    places = [part.location for part in law.regions if part.kind == "uninitialised"]
    return (law.location if law.kind == "uninitialised" else places[0] if places else None) or context.parameters[name].location
