"""Which rules there are, which of them a run asks, and what their names mean. No torch: nothing here needs their code."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

from gradlint.config import Settings, suggest, weight
from gradlint.errors import UsageError
from gradlint.facts import Page

__all__ = ["Catalogue", "Listed", "Named"]

_log = logging.getLogger("gradlint")


class Named(Protocol):
    """What choosing a rule needs of it."""

    @property
    def code(self) -> str:
        """As ``GL101``."""

    @property
    def name(self) -> str:
        """As ``exploding-path``."""

    @property
    def preview(self) -> bool:
        """It reports only where that is asked for."""

    @property
    def formerly(self) -> tuple[str, ...]:
        """Codes and names it had."""


R = TypeVar("R", bound=Named)


@dataclass(frozen=True)
class Listed:
    """A rule where it is not loaded.

    Args:
        reviews: it says something about runs, not only about models.
    """

    code: str
    name: str
    preview: bool
    formerly: tuple[str, ...]
    reviews: bool
    page: Page


@dataclass(frozen=True)
class Catalogue(Generic[R]):
    """All rules, and what became of those that are gone.

    Args:
        rules: the built-in pack's first, each pack's by code.
        removed: code or name of a rule that no longer exists to what to use instead.
    """

    rules: tuple[R, ...]
    removed: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def formerly(self) -> Mapping[str, R]:
        """Codes and names that rules had before."""
        return {word: rule for rule in self.rules for word in rule.formerly}

    @cached_property
    def words(self) -> frozenset[str]:
        """Everything that means a rule."""
        return frozenset({word for rule in self.rules for word in (rule.code, rule.name)} | set(self.formerly))

    def choose(self, settings: Settings) -> tuple[R, ...]:
        """The rules that the settings, with present codes, let report.

        Raises:
            UsageError: nothing is left.
        """
        rules = (rule for rule in self.rules if settings.preview or not rule.preview)
        chosen = tuple(rule for rule in rules if settings.wants(rule.code, rule.name))
        if not chosen:
            raise UsageError("select and ignore leave no rule to check")
        return chosen

    def find(self, word: str) -> R:
        """The rule with this code (in any case) or name, or that had it.

        Raises:
            UsageError: there is none.
        """
        for rule in self.rules:
            if word.upper() in (rule.code, *rule.formerly) or word.lower() in (rule.name, *rule.formerly):
                return rule
        raise UsageError(self._unknown(word))

    def current(self, settings: Settings) -> Settings:
        """The settings with the present codes of renamed rules in place of the old ones.

        Raises:
            UsageError: a selector matches no rule, or only one that is removed or in preview.
        """

        def meant(selectors: Iterable[str], option: str) -> tuple[str, ...]:
            return tuple(self._meant(selector, option.replace("_", "-"), settings) for selector in selectors)

        changed: dict[str, Any] = {name: meant(getattr(settings, name), name) for name in ("select", "extend_select", "ignore")}
        for name in ("per_file_ignores", "per_target_ignores", "per_module_ignores"):
            changed[name] = {key: meant(codes, f"{name}: {key}") for key, codes in getattr(settings, name).items()}
        changed["target"] = tuple(
            replace(target, own={**target.own, "ignore": meant(target.own["ignore"], f"target {target.name}: ignore")})
            if "ignore" in target.own
            else target
            for target in settings.target
        )
        return replace(settings, **changed)

    def _meant(self, selector: str, option: str, settings: Settings) -> str:
        if selector == "ALL":
            return selector
        if selector in self.formerly:
            rule = self.formerly[selector]
            _log.warning("%s: %s is called %s %s now", option, selector, rule.code, rule.name)
            selector = rule.code
        found = [rule for rule in self.rules if weight(selector, rule.code, rule.name)]
        if not found:
            raise UsageError(f"{option}: {self._unknown(selector)}")
        if option.endswith("select") and not settings.preview and all(rule.preview for rule in found):
            raise UsageError(f"{option}: {selector} is in preview: --preview lets it report")
        return selector

    def _unknown(self, word: str) -> str:
        if word in self.removed:
            return f"{word} was removed: {self.removed[word]}"
        hint = suggest(word.upper(), self.words) or suggest(word.lower(), self.words) or "; `gradlint rules` lists the rules"
        return f"no rule is called {word!r}{hint}"
