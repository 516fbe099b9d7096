"""For the tests of rule packs, the built-in one included: what a rule owes, as a list of what is missing.

    from gradlint.config import Settings
    from gradlint.testing import broken_contract, broken_fixtures, rules_of

    @pytest.mark.parametrize("rule", rules_of("acme_rules"), ids=lambda rule: rule.code)
    def test_rule(rule):
        assert broken_contract(rule, FIXTURES) == []
        assert broken_fixtures(rule, FIXTURES, Settings(packs=(FOLDER,))) == []

``FIXTURES`` holds a folder per rule, ``ac101`` for AC101, with ``bad.py``, whose guilty lines end in ``# AC101``, and
``good.py``, its nearest innocent neighbour. A ``gradlint.toml`` beside them configures both.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from gradlint.config import Settings, configure
from gradlint.engine import lint_targets
from gradlint.findings import Finding, Report, Severity
from gradlint.packs import load_pack
from gradlint.rule import Rule

__all__ = ["SECTIONS", "broken_contract", "broken_fixtures", "rules_of"]

SECTIONS = ("What it finds", "Why it matters", "How it is computed", "What to do", "When to ignore it", "References")
_INSTRUCTIONS = ("no-", "use-", "avoid-", "prefer-")


def rules_of(pack: str) -> tuple[Rule, ...]:
    """The rules of an importable pack, by code.

    Raises:
        PackError: it cannot be imported, is empty, or a module does not hold exactly one rule.
    """
    return load_pack(pack)


def broken_contract(rule: Rule, fixtures: Path) -> list[str]:
    """What a rule lacks: of its page, its name, its place, its models. Nothing is run.

    Args:
        fixtures: the folder of the folders of models.
    """
    return [*_page(rule), *_names(rule), *_models(rule, fixtures)]


def broken_fixtures(rule: Rule, fixtures: Path, settings: Settings | None = None) -> list[str]:
    """Where the bad model of a rule does not fire exactly on its marked lines, or the good one is not silent.

    Args:
        settings: of the run, for a rule whose models have no ``gradlint.toml``: a pack that is not installed is named in them.
    """
    folder = fixtures / rule.code.lower()
    problems: list[str] = []
    bad, marked = _lint(folder, "bad.py", rule, settings), _marked(folder, rule.code)
    found = [finding for finding in bad.findings if finding.code == rule.code]
    told = {str(value) for finding in found for value in finding.evidence.values()}
    problems += [f"bad.py: {f['message']}" for f in bad.failures if f["where"] not in told]
    places = {(Path(f.location.path).resolve(), f.location.line) for f in found if f.location is not None}
    problems += [f"{path.name}:{line} is marked and not reported" for path, line in sorted(marked - places)]
    problems += [f"{path.name}:{line} is reported and not marked" for path, line in sorted(places - marked)]
    for finding in found:
        problems += [f"bad.py: {finding.message}: {lack}" for lack in _lacking(finding)]
    good = _lint(folder, "good.py", rule, settings)
    problems += [f"good.py: {failure['message']}" for failure in good.failures]
    loud = [f for f in good.findings if f.severity.rank >= Severity.WARNING.rank or f.code == rule.code]
    return problems + [f"good.py: {f.code} {f.message}" for f in loud]


def _page(rule: Rule) -> Iterable[str]:
    page = inspect.getdoc(type(rule)) or ""
    summary, _, rest = page.partition("\n")
    if not (10 < len(summary) <= 100 and summary.endswith(".") and rest.startswith("\n")):
        yield "its docstring does not begin with one sentence of at most 100 characters and an empty line"
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    if titles != list(SECTIONS):
        yield f"its docstring does not have the sections {', '.join(SECTIONS)} in this order"
    for title, text in zip(titles, re.split(r"^## .+$", page, flags=re.MULTILINE)[1:], strict=True):
        if len(text.split()) < 4:
            yield f"the section {title!r} says nothing"


def _names(rule: Rule) -> Iterable[str]:
    if not re.fullmatch(r"[A-Z]{2,6}\d{3}", rule.code):
        yield f"its code {rule.code!r} is not two to six capitals and three digits"
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", rule.name):
        yield f"its name {rule.name!r} is not in kebab-case"
    if rule.name.startswith(_INSTRUCTIONS):
        yield f"its name {rule.name!r} is an instruction: it should read after 'ignore'"
    module = type(rule).__module__.rpartition(".")[2]
    if module != f"{rule.code.lower()}_{rule.name.replace('-', '_')}":
        yield f"its module {module} is not called after its code and name"
    if type(rule).__name__ != rule.name.title().replace("-", ""):
        yield f"its class {type(rule).__name__} is not called after its name"
    if not isinstance(rule.severity, Severity):
        yield f"its severity {rule.severity!r} is none"


def _models(rule: Rule, fixtures: Path) -> Iterable[str]:
    folder = fixtures / rule.code.lower()
    for name in ("bad.py", "good.py"):
        if not (folder / name).is_file():
            yield f"there is no {folder.name}/{name}"
    if not _marked(folder, rule.code):
        yield f"no line of {folder.name} ends in # {rule.code}"
    good = folder / "good.py"
    if good.is_file() and re.search(rf"#.*\b{rule.code}\b", good.read_text("utf-8").replace(f"[{rule.code}]", "")):
        yield f"{folder.name}/good.py has a marked line"


def _lint(folder: Path, name: str, rule: Rule, settings: Settings | None) -> Report:
    config = folder / "gradlint.toml"
    chosen = configure([], config=config) if config.is_file() else settings or Settings()
    if chosen.training_script is None and "def train(" in (folder / name).read_text("utf-8"):
        chosen = replace(chosen, training_script=folder / name)  # a file that trains its model is the training script as well
    return lint_targets([str(folder / name)], replace(chosen, preview=chosen.preview or rule.preview))


def _marked(folder: Path, code: str) -> set[tuple[Path, int]]:
    """Files and lines that say ``# CODE``, in the bad model and in what it is configured with."""
    files = [folder / "bad.py", *sorted(folder.glob("*.json"))]
    return {
        (path.resolve(), number)
        for path in files
        if path.is_file()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(rf"# .*\b{code}\b", line)
    }


def _lacking(finding: Finding) -> Iterable[str]:
    if not finding.fix:
        yield "it says no fix"
    if not finding.evidence:
        yield "it gives no numbers"
    if not (finding.instances or finding.module):
        yield "it names no place in the model"
