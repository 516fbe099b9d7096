"""Rule packs: the built-in one and every installed one come through the same door.

A pack is a package. Each of its modules that does not start with ``_`` holds exactly one rule, a subclass of
:class:`gradlint.rule.Rule`, and is called after it: ``gl101_exploding_path.py`` defines GL101. There is nothing to register.
A pack is built in, installed (the entry-point group ``gradlint.rules``), or a folder that the configuration names. Its package
may hold ``REMOVED``, a mapping of the codes that it no longer has to what to use instead.

A pack that cannot be loaded is an error, never a warning: a linter that lints less must not say that all is well.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from gradlint.errors import PackError
from gradlint.rule import Rule
from gradlint.rulebook import Catalogue

__all__ = ["BUILT_IN", "GROUP", "load_pack", "load_rules"]

BUILT_IN = "gradlint_rules"  # by name, not by metadata: a stale installation cannot yield zero rules
GROUP = "gradlint.rules"


def load_rules(folders: Iterable[Path] = ()) -> Catalogue[Rule]:
    """Every rule of every pack: the built-in one, the installed ones, those in ``folders``.

    Raises:
        PackError: a pack cannot be imported or is empty, a module holds not one rule, a code or name occurs twice.
    """
    installed = sorted({entry.value for entry in entry_points(group=GROUP)} - {BUILT_IN})
    names = [BUILT_IN, *installed, *(_register(folder) for folder in folders)]
    rules: list[Rule] = []
    taken: dict[str, Rule] = {}
    removed: dict[str, str] = {}
    for name in names:
        for rule in load_pack(name):
            for word in (rule.code, rule.name, *rule.formerly):
                if word in taken:
                    raise PackError(f"{word} is defined by {_place(taken[word])} and {_place(rule)}")
                taken[word] = rule
            rules.append(rule)
        removed.update(getattr(sys.modules[name], "REMOVED", {}))
    if again := sorted(taken.keys() & removed.keys()):
        raise PackError(f"{again[0]} was removed and must not come back with another meaning: {_place(taken[again[0]])}")
    return Catalogue(tuple(rules), removed)


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


def _register(folder: Path) -> str:
    """Make a folder importable under its own name, and nothing beside it."""
    folder = folder.resolve()
    name = folder.name
    if not folder.is_dir() or not name.isidentifier():
        why = "there is no such folder" if not folder.is_dir() else "its name must be one that Python can import"
        raise PackError(f"rule pack {str(folder)!r}: {why}")
    known = sys.modules.get(name)
    if known is not None:
        if str(folder) in [str(Path(path).resolve()) for path in getattr(known, "__path__", [])]:
            return name
        raise PackError(f"rule pack {str(folder)!r}: another module is called {name!r} already")
    init = folder / "__init__.py"
    spec = spec_from_file_location(name, init, submodule_search_locations=[str(folder)]) if init.exists() else None
    if spec is None:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    module = sys.modules[name] = module_from_spec(spec)
    try:
        if spec.loader is not None:
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PackError(f"rule pack {name!r} cannot be imported: {error}") from error
    return name


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
