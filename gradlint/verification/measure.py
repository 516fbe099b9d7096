"""Real seeds: forward, a random cotangent, backward; squares averaged."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from gradlint.errors import BuildError, InputError, TargetError, TraceError
from gradlint.trace.ambient import ambient_kept
from gradlint.trace.arguments import Arguments
from gradlint.trace.graph import InputSpec
from gradlint.trace.private import view_base
from gradlint.trace.state import seeded, uncompiled
from gradlint.trace.tree import first_floating
from gradlint.verification.inputs import Inputs, bounded, draw

__all__ = ["Measured", "Size", "backward", "duplicate", "measure"]

FLOORS = {"float64": 1e-12, "float32": 1e-6}
PRECISIONS = (torch.float64, torch.float32)
_DATA = 20_190_615  # added to the seed of inputs and cotangent: a factory that seeds itself must not fix them


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
        entries: the floating-point inputs, by name.
        redrawn: each seed drew the weights anew.
        medians: of the rms of a parameter's gradient over seeds, by its name.
    """

    parameters: Mapping[str, Size]
    modules: Mapping[str, Size]
    inputs: tuple[InputSpec, ...]
    seeds: int
    dtype: str
    entries: Mapping[str, Size] = field(default_factory=dict)
    redrawn: bool = True
    medians: Mapping[str, float] = field(default_factory=dict)

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
            entries={name: Size(**size) for name, size in data.get("entries", {}).items()},
            redrawn=data.get("redrawn", True),
            medians=data.get("medians", {}),
        )


def measure(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Inputs,
    seeds: int = 4,
    precisions: Sequence[torch.dtype] = PRECISIONS,
    *,
    entries: bool = False,
) -> Measured:
    """Draw ``seeds`` models, inputs and cotangents; return root mean squares over entries and seeds.

    Nothing outside is touched: generators, grad mode and default dtype are restored, a module is copied.

    Args:
        model: a factory, called once per seed; or a module, which keeps its values.
        inputs: integer inputs without ``high`` get the size of the embedding they index.
        seeds: how many; squares are averaged over them.
        precisions: tried in this order.
        entries: let floating-point inputs take gradients too, where the model allows it.

    Raises:
        BuildError: the factory raised, or returned something else than a module.
        InputError: the model does not run on these inputs.
        TraceError: no floating-point output carries a gradient, or backward raised.
    """
    redrawn = not isinstance(model, nn.Module)
    build = partial(duplicate, model) if isinstance(model, nn.Module) else model
    with ambient_kept(), redirect_stdout(sys.stderr), seeded(), torch.enable_grad(), uncompiled():
        inputs = bounded(lambda: _fresh(build, torch.float32), inputs)
        # Some models read their input with numpy, which a tensor that takes a gradient does not allow.
        ways = [(dtype, grads) for dtype in precisions for grads in ((True, False) if entries else (False,))]
        for dtype, grads in ways[:-1]:
            with suppress(InputError, TraceError):
                return _average(build, inputs, seeds, dtype, grads=grads, redrawn=redrawn)
        return _average(build, inputs, seeds, ways[-1][0], grads=ways[-1][1], redrawn=redrawn)


def backward(model: nn.Module, inputs: Inputs) -> None:
    """Run the model once, forward and backward, on random inputs and a random cotangent; gradients land in ``.grad``.

    Raises:
        InputError: forward raised.
        TraceError: no floating-point output carries a gradient, or backward raised.
    """
    _run(model, inputs, grads=False)


def _run(model: nn.Module, inputs: Inputs, *, grads: bool) -> dict[str, Tensor]:
    """:func:`backward`; returns the leaves among the inputs."""
    dtypes = [p.dtype for p in model.parameters() if p.is_floating_point()]
    args, kwargs, leaves = draw(model, inputs, dtypes[0] if dtypes else torch.float32, grads=grads)
    try:
        result = model(*args, **kwargs)
    except Exception as error:  # the user's forward may raise anything
        raise InputError(f"forward raised {type(error).__name__}: {error}") from error
    output = first_floating(result)
    if output is None or not output.requires_grad:
        raise TraceError("no floating-point output carries a gradient")
    try:
        torch.autograd.backward(output, _cotangent(output))
    except Exception as error:  # so may a custom autograd function
        raise TraceError(f"backward raised {type(error).__name__}: {error}") from error
    return leaves


def duplicate(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that holds computed tensors (an old-style weight norm does), which copy without history.

    Raises:
        BuildError: something in it cannot be copied.
    """
    held = (value for module in model.modules() for value in vars(module).values())
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in held if isinstance(t, Tensor) and not t.is_leaf}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever the user's attributes hold
        raise BuildError(f"the model cannot be copied: {type(error).__name__}: {error}") from error


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
        if len(self.grads) > 1 and 0.0 < min(self.grads) <= max(self.grads) < math.inf:
            noise = statistics.stdev(math.log2(g) / 2 for g in self.grads) / math.sqrt(len(self.grads))
        grad = math.sqrt(statistics.fmean(self.grads)) if self.grads else None
        return Size(math.sqrt(statistics.fmean(self.values)), grad, noise)


def _average(
    build: Callable[[], nn.Module], inputs: Inputs, seeds: int, dtype: torch.dtype, *, grads: bool, redrawn: bool
) -> Measured:
    parameters: dict[str, _Sum] = {}
    modules: dict[str, _Sum] = {}
    entries: dict[str, _Sum] = {}
    for seed in range(seeds):
        with seeded(seed):
            model = _fresh(build, dtype)
        with seeded(_DATA + seed), _Outputs(model) as outputs:
            leaves = _run(model, inputs, grads=grads)
        for name, parameter in model.named_parameters():
            _add(parameters, name, parameter, parameter.requires_grad)
        for name, leaf in leaves.items():
            _add(entries, name, leaf, True)
        for path, (value, grad) in outputs.seen.items():
            total = modules.setdefault(path, _Sum())
            total.values.append(value)
            if grad is not None:
                total.grads.append(grad)
    return Measured(
        parameters={name: total.size() for name, total in parameters.items()},
        modules={path: total.size() for path, total in modules.items()},
        inputs=inputs.specs if isinstance(inputs, Arguments) else tuple(inputs),
        seeds=seeds,
        dtype=str(dtype).removeprefix("torch."),
        entries={name: total.size() for name, total in entries.items()},
        redrawn=redrawn,
        medians={name: math.sqrt(statistics.median(total.grads)) for name, total in parameters.items() if total.grads},
    )


def _add(sums: dict[str, _Sum], name: str, tensor: Tensor, takes_grad: bool) -> None:
    total = sums.setdefault(name, _Sum())
    total.values.append(_mean_square(tensor))
    if takes_grad:
        total.grads.append(0.0 if tensor.grad is None else _mean_square(tensor.grad))


def _fresh(build: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    """A model of its own, in training mode, without gradients."""
    try:
        model = build()
    except TargetError:
        raise
    except Exception as error:  # the user's factory may raise anything
        raise BuildError(f"the factory raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise BuildError(f"the factory returned {type(model).__name__}, not a torch.nn.Module")
    model.zero_grad(set_to_none=True)
    return model.to(dtype).train()


def _mean_square(tensor: Tensor) -> float:
    values = tensor.detach()
    if values.is_sparse:
        return float(values.coalesce().values().double().square().sum()) / max(values.numel(), 1)
    return float(values.double().square().mean()) if values.numel() else 0.0


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
            output = first_floating(result)
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
            whole = view_base(output)
            if whole is not None and whole.requires_grad and whole.numel() == output.numel():
                whole.register_hook(partial(backward, base=True))  # type: ignore[no-untyped-call]

        return forward
