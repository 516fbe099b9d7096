"""gradlint predicts, before training, whether the gradients of a PyTorch model explode or vanish.

    report = gradlint.lint(model)           # the verdict: findings, each with its line, its number and its fix
    analysis = gradlint.analyze(model)      # the numbers: rms and gradient rms of every parameter, module and op
    verified = gradlint.verify(model)       # both, beside real forward and backward passes

``import gradlint`` imports neither torch nor anything slow; a name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gradlint._version import __version__

if TYPE_CHECKING:
    from gradlint.analysis import Analysis
    from gradlint.engine import analyze, lint, verify
    from gradlint.errors import (
        AnalysisError,
        BuildError,
        GradlintError,
        InputError,
        LoadError,
        PackError,
        TargetError,
        TraceError,
        UsageError,
        VerificationError,
    )
    from gradlint.findings import Confidence, Finding, Location, Report, Severity
    from gradlint.fleet import lint_many
    from gradlint.verification import Verification

__all__ = [
    "Analysis",
    "AnalysisError",
    "BuildError",
    "Confidence",
    "Finding",
    "GradlintError",
    "InputError",
    "LoadError",
    "Location",
    "PackError",
    "Report",
    "Severity",
    "TargetError",
    "TraceError",
    "UsageError",
    "Verification",
    "VerificationError",
    "__version__",
    "analyze",
    "lint",
    "lint_many",
    "verify",
]

_HOME = {
    "Analysis": "analysis",
    "Confidence": "findings",
    "Finding": "findings",
    "Location": "findings",
    "Report": "findings",
    "Severity": "findings",
    "Verification": "verification",
    "analyze": "engine",
    "lint": "engine",
    "lint_many": "fleet",
    "verify": "engine",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gradlint.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
