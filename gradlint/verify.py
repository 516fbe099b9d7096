"""Prediction beside reality: what one real backward pass gives, and how far a prediction is from it.

:func:`measure` builds the model a few times from different seeds, feeds it random inputs and a random cotangent, and
averages squares: the definition of ``rms`` and ``grad_rms``, carried out. :func:`compare` lays an analysis beside it.

Errors are in bits, ``|log2(predicted / measured)|``. Tensors whose measured rms is below ``floor`` times the largest
are not counted: there a gradient that is zero by symmetry is rounding noise. Where such a zero stands beside a tensor
of its own layer that is not zero, the prediction must be (nearly) zero as well.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gradlint.errors import BuildError, InputError, TraceError
from gradlint.trace.graph import InputSpec

__all__ = ["Comparison", "Entry", "Errors", "Measured", "Predicted", "Size", "Zero", "backward", "compare", "measure"]

FLOORS = {"float64": 1e-12, "float32": 1e-6}
ZERO = 1e-3  # a gradient that is zero by symmetry must be predicted below this share of its layer's


@dataclass(frozen=True)
class Size:
    """What was measured of one tensor.

    Args:
        rms: root mean square of its values.
        grad_rms: the same of its gradient; None when it takes none.
        noise: standard error of ``log2(grad_rms)``, in bits, from the spread between seeds.
    """

    rms: float
    grad_rms: float | None
    noise: float = 0.0


@dataclass(frozen=True)
class Measured:
    """What real seeds gave.

    Args:
        modules: outputs, by module path (``""`` is the model itself), at their last call.
        inputs: with the integer bounds that were used.
        dtype: the precision it ran in.
    """

    parameters: Mapping[str, Size]
    modules: Mapping[str, Size]
    inputs: tuple[InputSpec, ...]
    seeds: int
    dtype: str

    @property
    def floor(self) -> float:
        """Relative size below which a measured value may be rounding noise."""
        return FLOORS[self.dtype]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :meth:`from_dict` is the way back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measured:
        """The inverse of :meth:`to_dict`, also after a trip through JSON."""
        return cls(
            parameters={name: Size(**size) for name, size in data["parameters"].items()},
            modules={name: Size(**size) for name, size in data["modules"].items()},
            inputs=tuple(InputSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in data["inputs"]),
            seeds=data["seeds"],
            dtype=data["dtype"],
        )


class Facts(Protocol):
    """What is predicted of one tensor."""

    @property
    def rms(self) -> float | None:
        """Root mean square of its values."""

    @property
    def grad_rms(self) -> float | None:
        """Root mean square of its gradient."""


class Predicted(Protocol):
    """What :func:`compare` reads of an analysis."""

    @property
    def parameters(self) -> Mapping[str, Facts]:
        """By canonical name."""

    @property
    def modules(self) -> Mapping[str, Facts]:
        """By module path."""


@dataclass(frozen=True)
class Entry:
    """One number beside its prediction. ``kind`` is ``parameter`` or ``module``."""

    name: str
    kind: str
    predicted: float
    measured: float
    noise: float = 0.0

    @property
    def bits(self) -> float:
        """``log2(predicted / measured)``; infinite when the prediction is zero or not a number."""
        if not (0.0 < self.predicted < math.inf):
            return math.inf
        return math.log2(self.predicted) - math.log2(self.measured)

    def __str__(self) -> str:
        what = f"{self.kind} {self.name or '(model)'}"
        return f"{what}: {self.predicted:.4g} for {self.measured:.4g} ({self.bits:+.2f} bit)"


@dataclass(frozen=True)
class Errors:
    """The errors of one quantity, in the order of the model."""

    entries: tuple[Entry, ...]

    @property
    def median(self) -> float:
        """Median error in bits."""
        return self.quantile(0.5)

    @property
    def p95(self) -> float:
        """95th percentile of the error in bits."""
        return self.quantile(0.95)

    @property
    def span(self) -> float:
        """Bits between the largest and the smallest measured value."""
        values = [e.measured for e in self.entries]
        return math.log2(max(values)) - math.log2(min(values)) if values else 0.0

    def quantile(self, share: float) -> float:
        """The error that ``share`` of the entries do not exceed (interpolated); 0 when there are no entries."""
        errors = sorted(abs(e.bits) for e in self.entries)
        if not errors:
            return 0.0
        place = share * (len(errors) - 1)
        low, high = errors[math.floor(place)], errors[math.ceil(place)]
        return low if low == high else low + (high - low) * (place - math.floor(place))

    def worst(self, count: int = 1) -> tuple[Entry, ...]:
        """The entries with the largest errors, the worst first."""
        return tuple(sorted(self.entries, key=lambda e: -abs(e.bits))[:count])


@dataclass(frozen=True)
class Zero:
    """A tensor measured as zero whose prediction is not: ``share`` of its layer's."""

    name: str
    kind: str
    share: float

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: measured zero, predicted {self.share:.2g} of its layer's"


@dataclass(frozen=True)
class Comparison:
    """A prediction beside a measurement.

    Args:
        gradient: errors of ``grad_rms``, parameters and module outputs together.
        forward: errors of ``rms`` of module outputs.
        initial: errors of ``rms`` of parameters: is the initialisation understood?
        small: below the floor, not counted in ``gradient``.
        zeros: measured zero, predicted otherwise.
        missing: measured but not predicted, as ``kind name``.
    """

    gradient: Errors
    forward: Errors
    initial: Errors
    small: tuple[Entry, ...]
    zeros: tuple[Zero, ...]
    missing: tuple[str, ...]


def measure(model: nn.Module | Callable[[], nn.Module], inputs: Sequence[InputSpec], seeds: int = 4) -> Measured:
    """Draw ``seeds`` models, inputs and cotangents; return root mean squares over entries and seeds.

    Args:
        model: a factory, called once per seed; or a module, which is copied and keeps its values.
        inputs: integer inputs without ``high`` get the size of the embedding they index.
        seeds: how many; squares are averaged over them.

    Raises:
        BuildError: the factory raised, or returned something else than a module.
        InputError: the model does not run on these inputs.
        TraceError: no floating-point output carries a gradient, or backward raised.
    """
    if isinstance(model, nn.Module):
        build: Callable[[], nn.Module] = partial(copy.deepcopy, model)
    else:
        build = model
    with _untouched():
        inputs = _bounded(build, inputs)
        try:
            return _average(build, inputs, seeds, torch.float64)
        except (InputError, TraceError):
            return _average(build, inputs, seeds, torch.float32)


def backward(model: nn.Module, inputs: Sequence[InputSpec]) -> None:
    """Run the model once, forward and backward, on random inputs and a random cotangent; gradients land in ``.grad``.

    Raises:
        InputError: forward raised.
        TraceError: no floating-point output carries a gradient, or backward raised.
    """
    dtypes = [p.dtype for p in model.parameters() if p.is_floating_point()]
    args, kwargs = _arguments(model, inputs, _draw(inputs, dtypes[0] if dtypes else torch.float32))
    try:
        result = model(*args, **kwargs)
    except Exception as error:  # the user's forward may raise anything
        raise InputError(f"forward raised {type(error).__name__}: {error}") from error
    output = _floating(result)
    if output is None or not output.requires_grad:
        raise TraceError("no floating-point output carries a gradient")
    try:
        torch.autograd.backward(output, torch.randn_like(output))
    except Exception as error:  # so may a custom autograd function
        raise TraceError(f"backward raised {type(error).__name__}: {error}") from error


def compare(analysis: Predicted, measured: Measured) -> Comparison:
    """Errors of a prediction, as the accuracy benchmark counts them."""
    predicted = {"parameter": analysis.parameters, "module": analysis.modules}
    missing: list[str] = []
    zeros: list[Zero] = []
    small: list[Entry] = []
    gradient: list[Entry] = []
    values: dict[str, list[Entry]] = {"parameter": [], "module": []}
    for kind, sizes in (("parameter", measured.parameters), ("module", measured.modules)):
        rms: list[Entry] = []
        grads: list[Entry] = []
        for name, size in sizes.items():
            facts = predicted[kind].get(name)
            if facts is None or facts.rms is None:
                if kind == "module" and size.grad_rms is None:
                    continue  # a constant, such as a rotary table: nothing to predict
                missing.append(f"{kind} {name or '(model)'}")
                continue
            rms.append(Entry(name, kind, facts.rms, size.rms))
            if size.grad_rms is None:
                continue
            if facts.grad_rms is None:
                missing.append(f"{kind} {name or '(model)'} (gradient)")
                continue
            grads.append(Entry(name, kind, facts.grad_rms, size.grad_rms, size.noise))
        counted, below = _split(rms, measured.floor)
        values[kind] += counted
        if kind == "module":
            zeros += _zeros(rms, below, measured.floor)
        counted, below = _split(grads, measured.floor)
        gradient += counted
        small += below
        zeros += _zeros(grads, below, measured.floor)
    return Comparison(
        gradient=Errors(tuple(gradient)),
        forward=Errors(tuple(values["module"])),
        initial=Errors(tuple(values["parameter"])),
        small=tuple(small),
        zeros=tuple(zeros),
        missing=tuple(missing),
    )


def _split(entries: Sequence[Entry], floor: float) -> tuple[list[Entry], list[Entry]]:
    limit = floor * max((e.measured for e in entries), default=0.0)
    above = [e for e in entries if e.measured > limit]
    return above, [e for e in entries if e.measured <= limit]


def _zeros(entries: Sequence[Entry], below: Iterable[Entry], floor: float) -> Iterator[Zero]:
    """Those ``below`` that are zero beside the rest of their layer, and not predicted so.

    The layer is the nearest module around the tensor that holds something larger; a tensor no smaller than its layer,
    relative to ``floor``, is small because its whole layer is, which is a size like any other.
    """
    for entry in below:
        layer = entry.name
        while layer:
            layer = layer.rpartition(".")[0]
            around = [e for e in entries if not layer or e.name == layer or e.name.startswith(layer + ".")]
            largest = max(e.measured for e in around)
            if largest > 0.0 and entry.measured <= floor * largest:
                share = entry.predicted / (max(e.predicted for e in around) or 1.0)
                if not share <= ZERO:
                    yield Zero(entry.name, entry.kind, share)
                break
            if entry.measured > 0.0 and len(around) > 1:
                break


# --- one seed ---------------------------------------------------------------------------------------------------------


@dataclass
class _Sum:
    """Mean squares of one tensor, one per seed."""

    values: list[float] = dataclasses.field(default_factory=list)
    grads: list[float] = dataclasses.field(default_factory=list)

    def size(self) -> Size:
        noise = 0.0
        if len(self.grads) > 1 and min(self.grads) > 0.0:
            noise = statistics.stdev(math.log2(g) / 2 for g in self.grads) / math.sqrt(len(self.grads))
        grad = math.sqrt(statistics.fmean(self.grads)) if self.grads else None
        return Size(math.sqrt(statistics.fmean(self.values)), grad, noise)


def _average(build: Callable[[], nn.Module], inputs: Sequence[InputSpec], seeds: int, dtype: torch.dtype) -> Measured:
    parameters: dict[str, _Sum] = {}
    modules: dict[str, _Sum] = {}
    for seed in range(seeds):
        _seed(seed)
        model = _fresh(build, dtype)
        with _Outputs(model) as outputs:
            backward(model, inputs)
        for name, parameter in model.named_parameters():
            total = parameters.setdefault(name, _Sum())
            total.values.append(_mean_square(parameter))
            if parameter.requires_grad:
                total.grads.append(0.0 if parameter.grad is None else _mean_square(parameter.grad))
        for path, (value, grad) in outputs.seen.items():
            total = modules.setdefault(path, _Sum())
            total.values.append(value)
            if grad is not None:
                total.grads.append(grad)
    return Measured(
        parameters={name: total.size() for name, total in parameters.items()},
        modules={path: total.size() for path, total in modules.items()},
        inputs=tuple(inputs),
        seeds=seeds,
        dtype=str(dtype).removeprefix("torch."),
    )


class _Outputs:
    """Hooks that see each module's output, at its last call, and its gradient.

    In-place ops that follow do no harm: the value is read at once, and a tensor's hook is given the gradient with
    respect to the value that it had when the hook was set.
    """

    def __init__(self, model: nn.Module) -> None:
        self.seen: dict[str, tuple[float, float | None]] = {}
        self._model = model
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for path, module in self._model.named_modules():
            self._stack.callback(module.register_forward_hook(self._hook(path)).remove)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _hook(self, path: str) -> Callable[[nn.Module, object, object], None]:
        calls = 0

        def forward(_module: nn.Module, _args: object, result: object) -> None:
            nonlocal calls
            calls += 1
            call = calls
            output = _floating(result)
            if output is None:
                return
            value = _mean_square(output)
            self.seen.pop(path, None)
            self.seen[path] = (value, 0.0 if output.requires_grad else None)
            if not output.requires_grad:
                return

            def backward(grad: Tensor) -> None:
                if call == calls:
                    self.seen[path] = (value, _mean_square(grad))

            output.register_hook(backward)  # type: ignore[no-untyped-call]  # torch leaves it untyped

        return forward


# --- models and inputs ------------------------------------------------------------------------------------------------


def _fresh(build: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    try:
        model = build()
    except Exception as error:  # the user's factory may raise anything
        raise BuildError(f"the factory raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise BuildError(f"the factory returned {type(model).__name__}, not a torch.nn.Module")
    model.zero_grad(set_to_none=True)
    return model.to(dtype).train()


def _draw(inputs: Iterable[InputSpec], dtype: torch.dtype) -> list[Tensor]:
    drawn = []
    for spec in inputs:
        kind: torch.dtype = getattr(torch, spec.dtype)
        if kind.is_floating_point:
            drawn.append(torch.randn(spec.shape, dtype=dtype))
        else:
            drawn.append(torch.randint(spec.high or 2, spec.shape).to(kind))
    return drawn


def _arguments(
    model: nn.Module, inputs: Sequence[InputSpec], tensors: Sequence[Tensor]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Positional as long as names are in forward's order or unknown to it; then by keyword."""
    names = list(inspect.signature(model.forward).parameters)
    args: list[Tensor] = []
    kwargs: dict[str, Tensor] = {}
    for place, (spec, tensor) in enumerate(zip(inputs, tensors, strict=True)):
        in_order = place < len(names) and names[place] == spec.name
        if kwargs or (spec.name in names and not in_order):
            kwargs[spec.name] = tensor
        else:
            args.append(tensor)
    return args, kwargs


class _Indexed(TorchFunctionMode):
    """Which table does an integer input index? Found by the identity of its storage."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.inputs = inputs
        self.sizes: dict[int, int] = {}

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func in (torch.embedding, functional.embedding):
            table, index = args[:2] if func is torch.embedding else args[1::-1]
            for place, tensor in enumerate(self.inputs):
                if tensor.data_ptr() == index.data_ptr():
                    self.sizes[place] = min(table.shape[0], self.sizes.get(place, table.shape[0]))
        return func(*args, **(kwargs or {}))


def _bounded(build: Callable[[], nn.Module], inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Give integer inputs without a bound the size of the table they index; 2 when they index none."""
    if all(spec.high is not None or "int" not in spec.dtype for spec in inputs):
        return tuple(inputs)
    model = _fresh(build, torch.float32)
    tensors = [torch.zeros_like(t) for t in _draw(inputs, torch.float32)]
    args, kwargs = _arguments(model, inputs, tensors)
    with torch.no_grad(), _Indexed(tensors) as indexed:
        try:
            model(*args, **kwargs)
        except Exception as error:  # the user's forward may raise anything
            raise InputError(f"forward raised {type(error).__name__}: {error}") from error
    return tuple(
        dataclasses.replace(spec, high=indexed.sizes.get(place, 2)) if spec.high is None and "int" in spec.dtype else spec
        for place, spec in enumerate(inputs)
    )


def _floating(result: object) -> Tensor | None:
    """The first floating-point tensor of a nested output, in the order it is written."""
    if isinstance(result, Tensor):
        return result if result.is_floating_point() else None
    parts: Iterable[Any] = ()
    if isinstance(result, Mapping):
        parts = result.values()
    elif isinstance(result, tuple | list):
        parts = result
    elif dataclasses.is_dataclass(result):
        parts = [getattr(result, field.name) for field in dataclasses.fields(result)]
    for part in parts:
        found = _floating(part)
        if found is not None:
            return found
    return None


def _mean_square(tensor: Tensor) -> float:
    values = tensor.detach()
    if values.is_sparse:
        return float(values.coalesce().values().double().square().sum()) / max(values.numel(), 1)
    return float(values.double().square().mean()) if values.numel() else 0.0


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)


@contextmanager
def _untouched() -> Iterator[None]:
    """Leave torch's and Python's generators, the grad mode and the default dtype as they were."""
    state, default = random.getstate(), torch.get_default_dtype()
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            yield
    finally:
        random.setstate(state)
        torch.set_default_dtype(default)
