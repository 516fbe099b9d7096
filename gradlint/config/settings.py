"""What a run was asked to do. Every field is one key of the configuration; its kind alone says what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from gradlint.config.training import TRAINING, Training
from gradlint.config.values import (
    ARGUMENTS,
    CODES,
    FAIL_ON,
    FLAG,
    FORMATS,
    OUTPUTS,
    POSITIVE,
    SPECIFIER,
    STEPS,
    STRING,
    STRINGS,
    Kind,
    Output,
    matches,
    object_of,
    path,
    paths,
    read_table,
    table_of,
    weight,
)
from gradlint.errors import UsageError
from gradlint.findings import Finding, Location, Severity
from gradlint.recipe import Recipe, read_recipe

__all__ = ["KINDS", "Settings", "Target", "schema"]


T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """A model that the configuration names.

    Args:
        name: what reports and baselines call it; also a target on the command line.
        model: what a target on the command line would be: ``src/model.py:build``, ``package.module:Net``.
        args: what the factory or class is called with.
        own: settings of this model alone, by field; ``ignore`` adds to the ignored, everything else replaces.
    """

    name: str
    model: str
    args: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What one run was asked to do.

    Args:
        select: codes, prefixes of codes, names, or ``ALL``: only these rules report. Empty means all.
        ignore: codes, prefixes of codes or names that do not report.
        extend_select: these rules report as well, whatever select says.
        preview: rules that are not stable yet report, too.
        fail_on: findings of this severity or worse fail the run; None when findings never do.
        input: specs of every model's inputs (``x:float32:2,3,32,32``); empty means they are found or guessed.
        inputs: the same for single models, by their name (``Net``), file and name (``model.py:Net``) or a pattern of these.
        arg: arguments of the class or function that a target names, as ``name=value``.
        output_format: names in ``gradlint.report.FORMATS``; empty means ``full`` on stdout.
        output_file: where the reports go, as ``file`` or ``format=file``; ``-`` is stdout, and so is none.
        verify: put real forward and backward passes beside the prediction.
        horizon: how many steps back a model has to learn from; by model, as ``inputs``; ``*`` is every model.
        sequence_length: the number of steps to judge recurrences at, in place of the length of the traced inputs; likewise.
        training_script: the script that trains the models, read by its syntax alone.
        weights: safetensors (a file, an index of such files, or their folder) with the values that parameters are judged by.
        baseline: the file of accepted findings; None takes ``gradlint-baseline.json`` beside the configuration if it is there.
        max_gain: the largest gain of the gradient's norm from a model's output to its input that is within the budget.
        min_gain: the smallest.
        fp16_headroom_bits: bits that must lie between the largest predicted number and the largest that half precision holds.
        train: how the models will be trained.
        per_file_ignores: pattern of a file to what is ignored in it.
        per_target_ignores: pattern of a target to what is ignored of it.
        per_module_ignores: pattern of a module or parameter (``encoder.layers.*``) to what is ignored there.
        packs: folders of rule packs that are not installed.
        required_version: versions of gradlint that may read the file, as a specifier (``>=0.3``).
        target: the models that ``gradlint`` without arguments checks.
        source: the file these came from, if any.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: Severity | None = Severity.WARNING
    input: tuple[str, ...] = ()
    output_format: tuple[str, ...] = ()
    output_file: tuple[Output, ...] = ()
    verify: bool = False
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    arg: tuple[str, ...] = ()
    horizon: Mapping[str, int] = field(default_factory=dict)
    sequence_length: Mapping[str, int] = field(default_factory=dict)
    training_script: Path | None = None
    weights: Path | None = None
    extend_select: tuple[str, ...] = ()
    preview: bool = False
    baseline: Path | None = None
    max_gain: float | None = None
    min_gain: float | None = None
    fp16_headroom_bits: float | None = None
    train: Training = field(default_factory=Training)
    per_file_ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    per_target_ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    per_module_ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    packs: tuple[Path, ...] = ()
    required_version: str = ""
    target: tuple[Target, ...] = ()
    source: Path | None = field(default=None, compare=False)

    @property
    def root(self) -> Path:
        """The folder that the configuration is about."""
        return Path.cwd() if self.source is None else self.source.parent

    def wants(self, code: str, name: str) -> bool:
        """Whether a rule may report: the more specific selector decides, and ``ignore`` wins a tie.

        >>> Settings(select=("GL1",), ignore=("GL102",)).wants("GL101", "exploding-path")
        True
        >>> Settings(select=("vanishing-path",), ignore=("GL1",)).wants("GL102", "vanishing-path")
        True
        """
        selected = (*(self.select or ("ALL",)), *self.extend_select)
        chosen = max((weight(s, code, name) for s in selected), default=0)
        ignored = max((weight(s, code, name) for s in self.ignore), default=0)
        return chosen > ignored

    def drops(self, finding: Finding) -> bool:
        """Whether the configuration ignores a finding where it was made: in its file, of its target, at its modules.

        A finding of several modules is dropped when all of them are meant.
        """
        here: list[str] = []
        if finding.location is not None:
            place = Path(finding.location.path).absolute()
            here += [c for pattern, codes in self.per_file_ignores.items() if matches(pattern, place, self.root) for c in codes]
        here += [c for pattern, codes in self.per_target_ignores.items() if _means(pattern, finding.target) for c in codes]
        modules = finding.instances or ((finding.module,) if finding.module else ())
        for pattern, codes in self.per_module_ignores.items():
            of_module = bool(finding.module) and fnmatchcase(finding.module, pattern)
            if of_module or (modules and all(fnmatchcase(module, pattern) for module in modules)):
                here += codes
        return any(weight(selector, finding.code, finding.name) for selector in here)

    def recipe(self) -> Recipe | None:
        """How the models are trained, from the script and what the configuration says; None where neither is given.

        Raises:
            UsageError: the script cannot be read.
        """
        script = None if self.training_script is None else read_recipe(self.training_script)
        return self.train.recipe(Location(str(self.source or "[tool.gradlint]"), 1), script)

    def inputs_of(self, target: str) -> tuple[str, ...]:
        """The specs for a model: its own, else those for every model.

        >>> Settings(input=("2,3",), inputs={"*Critic": ("state:2,24", "action:2,4")}).inputs_of("models/td3.py:TwinCritic")
        ('state:2,24', 'action:2,4')
        >>> Settings(input=("2,3",), inputs={"net.py:Net": ("2,5",)}).inputs_of("models/other.py:Net")
        ('2,3',)
        """
        specs = _of_target(self.inputs, target)
        return self.input if specs is None else specs

    def horizon_of(self, target: str) -> int | None:
        """How many steps back a model has to learn from; None where nobody said.

        >>> Settings(horizon={"*": 50, "Copy": 200}).horizon_of("models.py:Copy")
        200
        """
        return _of_target(self.horizon, target)

    def sequence_length_of(self, target: str) -> int | None:
        """The number of steps to judge a model's recurrences at; None: that of its inputs."""
        return _of_target(self.sequence_length, target)

    def configured(self, text: str) -> Target | None:
        """The target of that name, or of that model."""
        return next((target for target in self.target if text in (target.name, target.model)), None)

    def of(self, target: Target | None) -> Settings:
        """These settings with those of one target."""
        if target is None:
            return self
        own = dict(target.own)
        return replace(self, **{**own, "ignore": (*self.ignore, *own.get("ignore", ()))})

    def updated(self, values: Mapping[str, Any], where: str) -> Settings:
        """These settings with ``values`` (by field name) in place of their own; unknown names and values raise."""
        read = read_table(values, KINDS, where)
        if read.get("select") and "ignore" not in read:
            # Who asks for a rule gets it: an older `ignore` must not turn `--select GL101` into an empty pass.
            read["ignore"] = ()
        if read.get("input") and "inputs" not in read:
            read["inputs"] = {}  # likewise: a flag counts more than what a file says of some models
        if read.get("output_file") and "output_format" not in read:
            read["output_format"] = ()  # the format that a file sets is meant for its own output
        return replace(self, **read)


def _means(pattern: str, target: str) -> bool:
    """Whether a pattern means a target: by its whole text, its name, or its file's name and its name."""
    file, _, name = target.rpartition(":")
    return any(fnmatchcase(text, pattern) for text in (target, name, f"{Path(file).name}:{name}"))


def _of_target(values: Mapping[str, T], target: str) -> T | None:
    """The value whose pattern means a model; that of ``*`` only where no other does."""
    for pattern, value in sorted(values.items(), key=lambda item: item[0] == "*"):
        if _means(pattern, target):
            return value
    return None


def _targets(value: object, where: str) -> tuple[Target, ...]:
    if not isinstance(value, list | tuple):
        raise UsageError(f"{where}: expected [[target]] tables, got {value!r}")
    found: list[Target] = []
    for number, item in enumerate(value, 1):
        if isinstance(item, Target):
            found.append(item)
            continue
        if not isinstance(item, Mapping):
            raise UsageError(f"{where}: expected [[target]] tables, got {item!r}")
        named = item.get("name", number)
        read = read_table(item, {**_TARGET, **_OWN}, f"{where} {named}", kebab=True)
        if missing := [key for key in ("name", "model") if key not in read]:
            raise UsageError(f"{where} {named}: {missing[0]} is missing")
        own = {key: read[key] for key in _OWN if key in read}
        found.append(Target(read["name"], read["model"], read.get("args", {}), own))
    for target in found:
        if sum(other.name == target.name for other in found) > 1:
            raise UsageError(f"{where}: the name {target.name!r} is used twice")
    return tuple(found)


def schema() -> dict[str, Any]:
    """The JSON Schema of ``[tool.gradlint]`` and of ``gradlint.toml``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gradlint configuration",
        "description": "The table [tool.gradlint] of pyproject.toml, or the whole of gradlint.toml.",
        **object_of(Settings, KINDS),
    }


_TARGET: Mapping[str, Kind] = {"name": STRING, "model": STRING, "args": ARGUMENTS}
_OWN: Mapping[str, Kind] = {
    "input": STRINGS,
    "ignore": CODES,
    "max_gain": POSITIVE,
    "min_gain": POSITIVE,
    "fp16_headroom_bits": POSITIVE,
    "train": TRAINING,
}
_CODES_BY_PATTERN = table_of(CODES, "patterns and codes")
KINDS: Mapping[str, Kind] = {
    "select": CODES,
    "ignore": CODES,
    "extend_select": CODES,
    "preview": FLAG,
    "fail_on": FAIL_ON,
    "input": STRINGS,
    "inputs": table_of(STRINGS, "models and their inputs"),
    "output_format": FORMATS,
    "output_file": OUTPUTS,
    "arg": STRINGS,
    "verify": FLAG,
    "horizon": STEPS,
    "sequence_length": STEPS,
    "training_script": path("The script that trains the models."),
    "weights": path("Safetensors with the values of the parameters."),
    "baseline": path("The file of accepted findings."),
    "max_gain": POSITIVE,
    "min_gain": POSITIVE,
    "fp16_headroom_bits": POSITIVE,
    "train": TRAINING,
    "per_file_ignores": _CODES_BY_PATTERN,
    "per_target_ignores": _CODES_BY_PATTERN,
    "per_module_ignores": _CODES_BY_PATTERN,
    "packs": paths("Folders of rule packs."),
    "required_version": SPECIFIER,
    "target": Kind(
        _targets,
        {"type": "array", "items": {**object_of(Target, _TARGET, (Settings, _OWN)), "required": ["name", "model"]}},
    ),
}
