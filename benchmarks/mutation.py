"""Mutation testing of the built-in rules: which small changes of a rule, or of a threshold, does no test notice?

`python -m benchmarks.mutation` changes one thing at a time, by mutmut's operators, in the files of `rules/gradlint_rules`, and
every finite threshold of `gradlint/limits.py` by a tenth, up and down; `--write` puts the table into README.md, `--only GL1`
takes some of the files, `--every 10` a sample, `--survivors` prints what no test noticed. Changes of wording (of a text with
spaces in it, or of the case of its letters) are no mutants.

Every mutant is judged in a fork of one process, in which the tests ran once before: torch is imported, and what was predicted of
a test's models is kept, as a rule only reads it. A mutant is killed by a test that selects its rule, or by its pair of models.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import math
import os
import re
import signal
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import libcst
import pytest
from _pytest.runner import runtestprotocol
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import create_mutations

from benchmarks._tables import between, share
from gradlint import engine
from gradlint.limits import LIMITS
from gradlint.packs import BUILT_IN, load_pack
from gradlint.review import Review

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "rules" / BUILT_IN
EQUIVALENT = Path(__file__).with_suffix(".toml")
SECONDS = 60
"""A mutant that takes longer loops for ever, and is killed."""


@dataclass(frozen=True)
class Mutant:
    """One changed thing.

    Args:
        file: name of the rule's file, or of the threshold.
        line: 0 for a threshold.
        change: ``before → after``, on one line.
        codes: the rules whose tests may notice it.
        apply: makes the change in this process.
    """

    file: str
    line: int
    change: str
    codes: frozenset[str]
    apply: Callable[[], None]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.change}"


def rule_mutants(only: str, every: int = 1) -> Iterator[Mutant]:
    """What mutmut changes in the rules, and in the files they share; every n-th of what counts."""
    number = 0
    rules = {Path(inspect.getfile(type(rule))).name: rule.code for rule in load_pack(BUILT_IN)}
    modules = {
        path.name: sys.modules[f"{BUILT_IN}.{path.stem}"] for path in sorted(RULES.glob("*.py")) if path.stem != "__init__"
    }
    texts = {name: (RULES / name).read_text("utf-8") for name in modules}
    for name, text in texts.items():
        users = dependants(name, texts)
        codes = frozenset(rules[user] for user in [name, *users] if user in rules)
        if not codes or not all(code.startswith(only) for code in codes):
            continue
        tree, mutations, _, _ = create_mutations(name, text)
        lines = MetadataWrapper(tree, unsafe_skip_copy=True).resolve(PositionProvider)
        for mutation in mutations:
            old, new = mutation.original_node, mutation.mutated_node
            if mutation.contained_by_top_level_function is None:
                continue
            before, after = (" ".join(tree.code_for_node(node).split()) for node in (old, new))
            wording = isinstance(old, libcst.SimpleString) and (" " in before or "XX" not in after)
            number += not wording
            if wording or number % every:
                continue
            changed = libcst.ensure_type(tree.deep_replace(old, new), libcst.Module).code
            apply = Replace([(modules[name], changed), *((modules[user], texts[user]) for user in users)])
            yield Mutant(name, lines[old].start.line, f"{before} → {after}", codes, apply)


def dependants(name: str, texts: dict[str, str]) -> list[str]:
    """The files that import from a file, and those that import from these; a file comes after what it imports."""
    found: list[str] = []
    for user, text in texts.items():
        if re.search(rf"^from {BUILT_IN}\.{name.removesuffix('.py')} import", text, re.MULTILINE):
            found += [user, *dependants(user, texts)]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Replace:
    """Runs changed source in the modules it belongs to."""

    sources: Sequence[tuple[ModuleType, str]]

    def __call__(self) -> None:
        for module, source in self.sources:
            exec(compile(source, module.__file__ or "", "exec"), vars(module))  # noqa: S102 - the repository's own source


def limit_mutants(only: str) -> Iterator[Mutant]:
    """Every threshold, a tenth of it (or of 1, if it is 0) higher and lower; of a count, one."""
    read = defaultdict(set)
    texts = {path.name: path.read_text("utf-8") for path in RULES.glob("*.py")}
    for name, text in texts.items():
        for file in (name, *dependants(name, texts)):
            for limit in re.findall(r'LIMITS\["(\w+)"\]', text):
                read[limit] |= {file[:5].upper()} if file.startswith("gl") else set()
    for name, limit in LIMITS.items():
        codes = frozenset(read[name])
        if not codes or not all(code.startswith(only) for code in codes):
            continue
        for which in ("warning", "error"):
            old = getattr(limit, which)
            if not math.isfinite(old):
                continue
            step = 1 if isinstance(old, int) else 0.1 * (abs(old) or 1.0)
            for new in (old - step, old + step):
                change = f"{name}.{which} {old:g} → {new:g}"
                yield Mutant("limits.py", 0, change, codes=codes, apply=Shift(name, which, new))


@dataclass(frozen=True)
class Shift:
    """Moves a threshold."""

    name: str
    which: str
    value: float

    def __call__(self) -> None:
        object.__setattr__(LIMITS[self.name], self.which, self.value)


@dataclass
class Predictions:
    """Keeps what was predicted of the n-th model of a test, and which rules the test selects."""

    test: str = ""
    count: int = 0
    kept: dict[tuple[str, int, str], Any] = field(default_factory=dict)
    selected: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def install(self) -> None:
        models = engine._models  # noqa: SLF001 - what the rules do not change is made once
        setattr(engine, "_models", self._once("models", lambda *args: [*models(*args)]))  # noqa: B010
        for name in ("_predict", "Context", "_facts"):
            setattr(engine, name, self._once(name, getattr(engine, name)))
        judge = Review.judge

        def noted(review: Review, context: Any) -> Any:
            if review.settings.select != type(review.settings)().select:
                self.selected[self.test] |= {rule.code for rule in review.rules}
            return judge(review, context)

        Review.judge = noted

    def _once(self, kind: str, make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **options: Any) -> Any:
            self.count += 1
            key = (self.test, self.count, kind)
            if key not in self.kept:
                self.kept[key] = make(*args, **options)
            return self.kept[key]

        return made

    def passes(self, item: pytest.Item) -> bool:
        self.test, self.count = item.nodeid, 0
        return all(report.passed for report in runtestprotocol(item, log=False, nextitem=None))


@dataclass
class Mutation:
    """A pytest plugin that runs the tests once as they are and then, in forks, beside every mutant."""

    only: str
    slowest: float
    every: int = 1
    survivors: bool = False
    results: list[tuple[Mutant, bool]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def log(self, text: str) -> None:
        print(f"{time.perf_counter() - self.began:6.0f} s  {text}", flush=True)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        predictions = Predictions()
        predictions.install()
        tests: dict[str, list[tuple[float, pytest.Item]]] = defaultdict(list)
        for item in session.items:
            began = time.perf_counter()
            if not predictions.passes(item):
                self.broken.append(item.nodeid)
                continue
            again = time.perf_counter()
            if item.nodeid in predictions.selected:
                passed = predictions.passes(item)
                self.broken += [] if passed else [item.nodeid]
            pair = getattr(item, "callspec", None) and item.callspec.params.get("rule")
            took = time.perf_counter() - again if item.nodeid in predictions.selected else again - began
            for code in {pair.code} if pair else predictions.selected[item.nodeid]:
                if code.startswith(self.only) or pair is None:
                    tests[code].append((took, item))
        self.log(f"{len(session.items)} tests, without any mutant")
        gc.collect()
        gc.freeze()
        for number, mutant in enumerate([*rule_mutants(self.only, self.every), *limit_mutants(self.only)]):
            items = sorted((pair for code in mutant.codes for pair in tests[code]), key=lambda pair: pair[0])
            chosen = list(dict.fromkeys(item for took, item in items if took <= self.slowest))
            killed = not survives(mutant, chosen, predictions)
            self.results.append((mutant, killed))
            if self.survivors and not killed:
                self.log(str(mutant))
            if number % 100 == 99:
                self.log(f"{number + 1} mutants, {sum(not dead for _, dead in self.results)} alive")
        return True


def survives(mutant: Mutant, items: Sequence[pytest.Item], predictions: Predictions) -> bool:
    """All tests pass beside the mutant, in a process of its own."""
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        try:
            mutant.apply()
            gc.disable()
            alive = all(predictions.passes(item) for item in items)
        except BaseException:  # noqa: BLE001 - a mutant that cannot be imported is killed
            alive = False
        os._exit(0 if alive else 1)
    return os.waitpid(child, 0)[1] == 0


def table(results: Sequence[tuple[Mutant, bool]], every: int) -> list[str]:
    """Killed and alive by file; what was not counted, and why."""
    known = {(e["file"], e["change"]): e["why"] for e in tomllib.loads(EQUIVALENT.read_text("utf-8"))["equivalent"]}
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    met: dict[tuple[str, str], str] = {}
    for mutant, killed in results:
        key = (mutant.file, mutant.change)
        column = 0 if killed else 2 if key in known else 1
        counts[mutant.file][column] += 1
        if column == 2:
            met[key] = known[key]
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    killed, alive, equivalent = total
    lines = [
        f"- killed: {killed} of {killed + alive}, {share(killed, killed + alive)}",
        *([] if every == 1 else [f"- a sample: one of {every} mutants of the rules, all of the limits"]),
        f"- not counted: {equivalent} that change nothing (below)",
        "",
        "| file | killed | alive | share | equivalent |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {file} | {row[0]} | {row[1]} | {share(row[0], row[0] + row[1]) if row[0] + row[1] else ''} | {row[2]} |"
        for file, row in counts.items()
    ]
    if met:
        lines += ["", "| file | equivalent mutant | why |", "|---|---|---|"]
        lines += [f"| {file} | `{change.replace('|', chr(92) + '|')}` | {why} |" for (file, change), why in met.items()]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="GL", metavar="PREFIX", help="rules whose code begins so")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="a sample: one of N mutants of the rules")
    parser.add_argument("--slowest", type=float, default=5.0, metavar="S", help="tests that take longer are left out")
    parser.add_argument("--survivors", action="store_true", help="print every mutant that no test noticed")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("tests", nargs="*", default=["tests/rules", "tests/test_fixtures.py", "tests/test_rule_limits.py"])
    args = parser.parse_args()
    began = time.perf_counter()
    plugin = Mutation(args.only, args.slowest, args.every, args.survivors)
    few = [] if args.only == "GL" else ["-k", f"{args.only} or not GL"]
    quick = ["-q", "-s", "--tb=native", "-W", "ignore", "-p", "no:cacheprovider", "-p", "no:xdist"]
    pytest.main([*quick, *few, *args.tests], plugins=[plugin])
    if plugin.broken or not plugin.results:
        print("\n".join(["these tests fail without any mutant:", *plugin.broken]))
        return 1
    lines = table(plugin.results, args.every)
    print("\n".join(lines))
    print(f"{time.perf_counter() - began:.0f} s")
    if args.write:
        between("mutation", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
