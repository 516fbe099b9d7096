"""Judge the models that a training loop calls in its first step, each with the arguments of its first call.

Nothing is taken from the data loader: the call itself is waited for, with hooks that are gone when the step is over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from gradlint.config import Settings
from gradlint.engine import lint_call
from gradlint.findings import Report, Severity
from gradlint.load import Call
from gradlint.report import FORMATS, View

__all__ = ["FirstStep", "Judging", "UnstableModelError"]

_log = logging.getLogger("gradlint")


class UnstableModelError(RuntimeError):
    """A model has findings at or above ``fail_on``, or could not be judged.

    Args:
        report: what was found.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(f"gradlint:\n{FORMATS['full'](report, View(quiet=True))}")
        self.report = report


class FirstStep:
    """Waits for the first call of each model within a root, judges it, and is done with it.

    A model is an outermost module that is called in training mode with gradients enabled and has a parameter to train: of the
    root, if that itself is called, else the generator and the discriminator, one by one. The generators of random numbers, the
    model and its gradients, training flags and torch's settings are afterwards as they were.

    Args:
        settings: of the run. What reaches ``fail_on`` raises; with None all is logged and nothing raises.

    Example:
        >>> first = FirstStep(Settings(fail_on=Severity.ERROR))
        >>> first.watch(model)
        >>> model(batch)  # judged here, before forward runs
        >>> first.close()
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reports: list[Report] = []
        self._hooks: dict[nn.Module, Any] = {}

    def watch(self, root: nn.Module, passed_over: Callable[[nn.Module], bool] = lambda _: False) -> None:
        """Wait for calls of ``root`` or of what is in it.

        Args:
            passed_over: true of a module whose call, right now, is not that of a model.
        """

        def called(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            if module.training and torch.is_grad_enabled() and not passed_over(module):
                self._forget(module)
                self._judge(Call.now(module, args, kwargs))

        hook = torch.compiler.disable(called)  # type: ignore[no-untyped-call] # a compiled model runs it as Python
        for module in root.modules():
            trains = any(parameter.requires_grad for parameter in module.parameters())
            if trains and not isinstance(module, torch.jit.ScriptModule):
                self._hooks[module] = module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)

    def close(self) -> None:
        """The step is over: what was not called is no longer waited for."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    def _forget(self, module: nn.Module) -> None:
        for inner in module.modules():
            if inner in self._hooks:
                self._hooks.pop(inner).remove()

    def _judge(self, call: Call) -> None:
        device = next(call.model.parameters()).device
        accelerators = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(accelerators, device_type=device.type if accelerators else "cuda"):
            report = lint_call(call, self.settings)
        self.reports.append(report)
        if self.settings.fail_on is not None and not report.ok:
            raise UnstableModelError(report)
        loud = report.findings or report.failures
        _log.log(logging.WARNING if loud else logging.INFO, "%s", FORMATS["full"](report, View(quiet=bool(loud))))


class Judging:
    """What the callbacks of all trainers are, beside their hooks: settings, and what was found.

    Args:
        fail_on: findings of this severity or worse (``"info"``, ``"warning"``, ``"error"``) stop the training with
            :class:`UnstableModelError`, as does a model that cannot be judged. None only logs.
        settings: more fields of :class:`~gradlint.config.Settings`; no configuration file is read.

    Raises:
        UsageError: a setting makes no sense.
    """

    def __init__(self, fail_on: Severity | str | None = None, **settings: Any) -> None:
        super().__init__()
        chosen = {"fail_on": "never" if fail_on is None else fail_on, **settings}
        self._first = FirstStep(Settings().updated(chosen, "GradlintCallback()"))

    @property
    def reports(self) -> list[Report]:
        """What was found: one report per model, none before the first step."""
        return self._first.reports
