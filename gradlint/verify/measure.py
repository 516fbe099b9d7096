"""Real seeds: forward, a random cotangent, backward; squares averaged."""

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
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gradlint.errors import BuildError, InputError, TraceError
from gradlint.trace.graph import InputSpec

__all__ = ["Measured", "Size", "backward", "measure"]

FLOORS = {"float64": 1e-12, "float32": 1e-6}


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
        torch.autograd.backward(output, _cotangent(output))
    except Exception as error:  # so may a custom autograd function
        raise TraceError(f"backward raised {type(error).__name__}: {error}") from error


def _cotangent(output: Tensor) -> Tensor:
    """A direction drawn from N(0, 1), of rms 1: mean squares of gradients are the same, with less noise on few entries."""
    drawn = torch.randn_like(output)
    return drawn * (math.sqrt(drawn.numel()) / float(drawn.norm()))


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
    respect to the value that it had when the hook was set. An op that writes into a view, such as the output of a linear
    layer, takes the view out of the graph: then the hook of its base is heard.
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
            heard = False

            def backward(grad: Tensor, *, base: bool = False) -> None:
                nonlocal heard
                if call == calls and not (base and heard):
                    self.seen[path] = (value, _mean_square(grad))
                heard = True

            output.register_hook(backward)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            whole = output._base  # noqa: SLF001
            if whole is not None and whole.requires_grad and whole.numel() == output.numel():
                whole.register_hook(partial(backward, base=True))  # type: ignore[no-untyped-call]

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
