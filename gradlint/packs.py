"""Rule packs: the built-in one and every installed one come through the same door.

A pack is a package. Each of its modules that does not start with ``_`` holds exactly one rule, a subclass of
:class:`gradlint.rule.Rule`, and is called after it: ``gl101_exploding_path.py`` defines GL101. There is nothing to register.

A pack that cannot be loaded is an error, never a warning: a linter that lints less must not say that all is well.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from types import ModuleType

from gradlint.config import Settings, suggest
from gradlint.errors import PackError, UsageError
from gradlint.rule import Rule

__all__ = ["BUILT_IN", "GROUP", "choose", "find", "load_pack", "load_rules"]

BUILT_IN = "gradlint_rules"  # by name, not by metadata: a stale installation cannot yield zero rules
GROUP = "gradlint.rules"


def load_rules() -> tuple[Rule, ...]:
    """Every rule of every pack, the built-in pack's first, each pack's by code.

    Raises:
        PackError: a pack cannot be imported or is empty, a module holds not one rule, a code or name occurs twice.
    """
    installed = sorted({entry.value for entry in entry_points(group=GROUP)} - {BUILT_IN})
    rules: list[Rule] = []
    for pack in (BUILT_IN, *installed):
        for rule in load_pack(pack):
            for other in rules:
                if rule.code == other.code:
                    raise PackError(f"{rule.code} is defined by {_place(other)} and {_place(rule)}")
                if rule.name == other.name:
                    raise PackError(f"the name {rule.name} is used by {_place(other)} and {_place(rule)}")
            rules.append(rule)
    return tuple(rules)


def load_pack(name: str) -> tuple[Rule, ...]:
    """The rules of one pack, by code.

    Raises:
        PackError: it cannot be imported, is empty, or a module does not hold exactly one rule.
    """
    package = _import(name, name)
    paths = getattr(package, "__path__", None)
    if paths is None:
        raise PackError(f"rule pack {name!r} is a module; a pack is a package with one module per rule")
    modules = sorted(info.name for info in pkgutil.iter_modules(paths) if not info.name.startswith("_"))
    if not modules:
        raise PackError(f"rule pack {name!r} has no rules")
    rules = [_only_rule(_import(f"{name}.{module}", name)) for module in modules]
    return tuple(sorted(rules, key=lambda rule: rule.code))


def choose(rules: Iterable[Rule], settings: Settings) -> tuple[Rule, ...]:
    """The rules that the settings let report.

    Raises:
        UsageError: a selector matches no rule, or nothing is left.
    """
    rules = tuple(rules)
    known = {word for rule in rules for word in (rule.code, rule.name)}
    for option, selectors in (("select", settings.select), ("ignore", settings.ignore)):
        for selector in selectors:
            if selector not in known | {"ALL"} and not any(rule.code.startswith(selector) for rule in rules):
                hint = suggest(selector, known) or "; `gradlint rules` lists the rules"
                raise UsageError(f"{option}: no rule is called {selector!r}{hint}")
    chosen = tuple(rule for rule in rules if settings.wants(rule.code, rule.name))
    if not chosen:
        raise UsageError("select and ignore leave no rule to check")
    return chosen


def find(rules: Sequence[Rule], word: str) -> Rule:
    """The rule with this code (in any case) or name.

    Raises:
        UsageError: there is none.
    """
    for rule in rules:
        if word.upper() == rule.code or word.lower() == rule.name:
            return rule
    known = [name for rule in rules for name in (rule.code, rule.name)]
    hint = suggest(word.upper(), known) or suggest(word.lower(), known) or "; `gradlint rules` lists the rules"
    raise UsageError(f"no rule is called {word!r}{hint}")


def _import(module: str, pack: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        what = f"rule pack {pack!r}" if module == pack else f"rule pack {pack!r}: module {module!r}"
        raise PackError(f"{what} cannot be imported: {error}") from error


def _only_rule(module: ModuleType) -> Rule:
    """The rule a module defines; the ones it imports do not count."""
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Rule) and value.__module__ == module.__name__
    ]
    own = [cls for cls in own if not inspect.isabstract(cls)]
    if len(own) != 1:
        names = ", ".join(cls.__name__ for cls in own) or "none"
        raise PackError(f"{module.__name__} must define exactly one rule, it defines: {names}")
    try:
        rule: Rule = own[0]()
        code, name, _ = rule.code, rule.name, rule.severity
    except (AttributeError, TypeError) as error:
        raise PackError(f"{module.__name__}.{own[0].__name__} is incomplete: {error}") from error
    stem = module.__name__.rpartition(".")[2]
    if stem != code.lower() and not stem.startswith(f"{code.lower()}_"):
        raise PackError(f"{module.__name__} defines {code} {name}: its name must start with {code.lower()}")
    return rule


def _place(rule: Rule) -> str:
    return type(rule).__module__
