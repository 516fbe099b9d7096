"""Run a forward to see how far it gets: which call refuses its operands, and which arguments they came from."""

from __future__ import annotations

import copy
import math
import traceback
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gradlint import stages
from gradlint.trace.arguments import signature_of, spread
from gradlint.trace.assertions import compared
from gradlint.trace.leaves import Key, Values, leaves, made
from gradlint.trace.names import FACTS, name_of
from gradlint.trace.omitted import omitted
from gradlint.trace.private import BATCH_NORM
from gradlint.trace.source import transparent
from gradlint.trace.state import is_lazy, preserved, seeded
from gradlint.trace.tree import first_floating, map_tensors, tensors_in

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RECURRENT", "Around", "Called", "Operand", "Outcome", "Prober"]

Around = Callable[[], AbstractContextManager[Any]]
"""Makes the context that forward is run in."""

ENOUGH = 4  # samples per channel that a batch normalisation needs to be more than a sign

_MOST = 1 << 23  # entries of all inputs together

_CALL = 20_000  # entries that cost as much as a call: the unit of work, some 20 µs
RECURRENT = frozenset("gru lstm rnn_tanh rnn_relu gru_cell lstm_cell rnn_tanh_cell rnn_relu_cell".split())
"""Functions that only the modules of :data:`_CHECKING` call."""

_SWITCHES = frozenset({"_set_grad_enabled", "set_autocast_enabled", "autocast_increment_nesting", "autocast_decrement_nesting"})
_CHECKING = (nn.RNNBase, nn.RNNCellBase)  # they look at their arguments before any torch function does


@dataclass(frozen=True)
class Operand:
    """A tensor in a call.

    Args:
        place: its position among the tensors of the call.
        sources: the arguments that it was computed from.
    """

    place: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    sources: frozenset[Key]

    @property
    def numel(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Called:
    """A call: ``args`` and ``kwargs`` have operands for tensors; ``module`` is set when a module looks at its arguments."""

    index: int
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    operands: tuple[Operand, ...]
    module: nn.Module | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        calls: how many torch calls it made.
        error: what was raised; None if forward returned.
        call: the call that raised, or the last one before Python code did (``inside`` is False then).
        asserted: the two sides that an assertion of the user found different.
        samples: the least number of samples per channel that a batch normalisation saw.
        defined: no NaN came out.
        omitted: arguments that were not given, and that what was raised is about.
    """

    calls: int
    error: Exception | None = None
    call: Called | None = None
    inside: bool = False
    asserted: tuple[Any, Any] | None = None
    samples: int = ENOUGH
    defined: bool = True
    omitted: tuple[str, ...] = ()


class _Stop(BaseException):
    """The call that was waited for has come."""


_Met = tuple[int, str, Any, Any, nn.Module | None]
"""A call as it was met: its number, name, arguments, and the module that is called."""


class _Watch(TorchFunctionMode):
    """Counts torch calls, follows from which arguments tensors were made, and ends at call ``stop``."""

    def __init__(self, given: Mapping[Key, torch.Tensor], stop: int | None) -> None:
        super().__init__()
        self.calls = 0
        self.entries = 0
        self.inside = False
        self.samples: list[int] = []
        self._stop = stop
        self._last: _Met | None = None
        self._checking: _Met | None = None
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], frozenset[Key]]] = {}
        for key, tensor in given.items():
            self._mark(tensor, frozenset({key}))

    @transparent
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if name_of(func) in _SWITCHES:  # also when an error leaves the block
            return func(*args, **kwargs)
        self.meet(name_of(func), args, kwargs, None)
        self.inside = True
        result = func(*args, **kwargs)
        self.inside = False
        self.entries += sum(t.numel() for t in tensors_in(result))
        sources = frozenset[Key]().union(*(self._sources(t) for t in tensors_in((args, kwargs))))
        if sources:
            written = args[:1] if result is None else ()
            for tensor in tensors_in((result, written)):
                self._mark(tensor, sources)
        return result

    @transparent
    def meet(self, name: str, args: Any, kwargs: Any, module: nn.Module | None) -> None:
        """A call is about to be made."""
        self.calls += 1
        self._last = self.calls, name, args, kwargs, module
        self._checking = self._last if module is not None else self._checking if name in FACTS | RECURRENT else None
        if self.calls == self._stop:
            raise _Stop

    def last(self) -> Called | None:
        """The last call that was made; the module's that was just looking at what it got."""
        met = self._checking or self._last
        if met is None:
            return None
        index, name, args, kwargs, module = met
        found: list[Operand] = []

        def operand(tensor: torch.Tensor) -> Any:
            found.append(Operand(len(found), tuple(tensor.shape), tensor.dtype, self._sources(tensor)))
            return found[-1]

        mapped_args, mapped_kwargs = map_tensors((tuple(args), dict(kwargs)), operand)
        return Called(index, name, mapped_args, mapped_kwargs, tuple(found), module)

    @property
    def work(self) -> int:
        """Calls, and the entries of what they returned in calls' worth."""
        return self.calls + self.entries // _CALL

    @property
    def raising(self) -> bool:
        """What was raised comes from the last call, not from the Python code after it."""
        return self.inside or self._checking is not None

    def _mark(self, tensor: torch.Tensor, sources: frozenset[Key]) -> None:
        self._known[id(tensor)] = weakref.ref(tensor), sources

    def _sources(self, tensor: torch.Tensor) -> frozenset[Key]:
        reference, sources = self._known.get(id(tensor), (None, frozenset[Key]()))
        return sources if reference is not None and reference() is tensor else frozenset()


class Prober:
    """Runs the forward of one model on arguments that are described; the model is left as it was.

    Args:
        work: what all runs may cost together, in calls: not in seconds, so that every machine finds the same.
        around: what to run forward in.
    """

    def __init__(self, model: nn.Module, *, work: int, around: Around = nullcontext) -> None:
        self.model = model
        self._around = around
        self._work = work
        self._pause = 0
        self._left = 0
        self._grad = False

    @property
    def over(self) -> bool:
        """The work is used up."""
        return self._work <= 0

    @property
    def exhausted(self) -> bool:
        """What was allowed last is used up."""
        return self._left <= 0 or self._work <= max(self._pause, 0)

    def allow(self, *, runs: int, work: int) -> None:
        """Not more than that from here."""
        self._left, self._pause = runs, self._work - work

    def run(self, values: Values, stop: int | None = None) -> Outcome:
        """Run forward, or up to its call number ``stop``, which is then reported without an error."""
        self._left -= 1
        if sum(leaf.numel for _, leaf in leaves(values)) > _MOST:
            return Outcome(0, MemoryError("the inputs would be too large"))
        outcome = self._run(values, stop)
        error = outcome.error
        if isinstance(error, RuntimeError) and not self._grad and "require" in str(error) and "grad" in str(error):
            # It differentiates in its forward: that needs the graph, which costs memory.
            self._grad = True
            outcome = self._run(values, stop)
        return outcome

    def _run(self, values: Values, stop: int | None) -> Outcome:
        model = copy.deepcopy(self.model) if is_lazy(self.model) else self.model
        given: dict[Key, torch.Tensor] = {}
        with seeded(), preserved(model, parameters=False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args, kwargs = spread(model, made(values, given))
            watch = _Watch(given, stop)
            _listen(model, watch)
            try:
                try:
                    with self._around(), watch, torch.set_grad_enabled(self._grad):
                        result = _call(model, args, kwargs)
                finally:
                    self._work -= 1 + watch.work
            except _Stop:
                return Outcome(watch.calls, None, watch.last())
            except Exception as error:  # noqa: BLE001 - any way a model refuses an input; reported if none is accepted
                names = [p.name for p in signature_of(model) if p.default is None and p.name not in values]
                left_out = omitted(error, names)
                outcome = Outcome(watch.calls, error, watch.last(), watch.raising, compared(error), omitted=left_out)
                traceback.clear_frames(error.__traceback__)  # they hold the activations of every try
                return outcome
            first = first_floating(result)
            defined = first is None or not bool(first.detach().isnan().any())
        return Outcome(watch.calls, None, None, samples=min(watch.samples, default=ENOUGH), defined=defined)


def _listen(model: nn.Module, watch: _Watch) -> None:
    """Let modules tell what they get. The hooks go when the model is restored."""

    def count(_: nn.Module, args: tuple[Any, ...]) -> None:
        samples = (t.numel() // max(t.shape[1], 1) for t in args[:1] if isinstance(t, torch.Tensor) and t.dim() > 1)
        watch.samples.extend(samples)

    @transparent
    def meet(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch.meet(type(module).__name__, args, kwargs, module)

    paths = {module: path for path, module in model.named_modules()} if stages.listening() else {}

    def tell(module: nn.Module, _: Any) -> None:
        stages.now("inputs", layer=paths[module])

    for module in paths:
        module.register_forward_pre_hook(tell)
    for module in model.modules():
        if isinstance(module, BATCH_NORM):
            module.register_forward_pre_hook(count)
        elif isinstance(module, _CHECKING):
            module.register_forward_pre_hook(meet, with_kwargs=True)


@transparent
def _call(model: nn.Module, args: Any, kwargs: Any) -> Any:
    return model(*args, **kwargs)
