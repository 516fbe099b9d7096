"""gradlint inside other programs, one file each. Each needs the library it is called after, and is imported by name alone.

gradlint.integrations.pytest         assert_stable, pytest --gradlint (a plugin of pytest once gradlint is installed)
gradlint.integrations.transformers   GradlintCallback for transformers.Trainer
gradlint.integrations.lightning      GradlintCallback for Lightning
"""

from __future__ import annotations

__all__: list[str] = []
