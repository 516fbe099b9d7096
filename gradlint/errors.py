"""The exception tree.

    GradlintError                exit code 2: gradlint could not do what was asked
    ├── UsageError               flags or configuration that make no sense
    ├── TargetError              one target could not be analysed; the others go on
    │   ├── LoadError            the file, module or attribute cannot be found or imported
    │   ├── BuildError           the model cannot be constructed
    │   ├── InputError           no inputs were found that the model accepts
    │   ├── TraceError           forward raised, or did something that cannot be recorded
    │   ├── AnalysisError        gradlint's own fault: a bug worth reporting
    │   └── VerificationError    a real run was asked for and is not possible, or contradicts the prediction
    └── PackError                a rule pack cannot be loaded

A finding is never an exception and an exception is never a pass.
"""

from __future__ import annotations

__all__ = [
    "AnalysisError",
    "BuildError",
    "GradlintError",
    "InputError",
    "LoadError",
    "PackError",
    "TargetError",
    "TraceError",
    "UsageError",
    "VerificationError",
]


class GradlintError(Exception):
    """Root of the tree. ``exit_code`` is what the command line returns for it."""

    exit_code = 2


class UsageError(GradlintError):
    """Flags or configuration that make no sense."""


class PackError(GradlintError):
    """A rule pack cannot be loaded, is empty, or defines a code twice."""


class TargetError(GradlintError):
    """One target could not be analysed.

    Args:
        message: what went wrong, in one sentence.
        target: the target as the user wrote it.
        where: ``path:line`` in the user's own code, when known.
        hint: what to do about it.
    """

    stage = "target"

    def __init__(self, message: str, *, target: str = "", where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.target = target
        self.where = where
        self.hint = hint

    def to_dict(self) -> dict[str, str]:
        """The failure as the JSON report shows it."""
        return {
            "target": self.target,
            "stage": self.stage,
            "message": self.message,
            "where": self.where,
            "hint": self.hint,
        }


class LoadError(TargetError):
    """The file, module or attribute cannot be found or imported."""

    stage = "load"


class BuildError(TargetError):
    """The model cannot be constructed."""

    stage = "build"


class InputError(TargetError):
    """No inputs were found that the model accepts."""

    stage = "inputs"


class TraceError(TargetError):
    """Forward raised, or did something that cannot be recorded."""

    stage = "trace"


class AnalysisError(TargetError):
    """A failure inside gradlint's own analysis."""

    stage = "analyse"


class VerificationError(TargetError):
    """A real run was asked for and is not possible, or contradicts the prediction."""

    stage = "verify"
