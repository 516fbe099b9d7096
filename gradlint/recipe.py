"""The training script, read by its syntax alone: which optimisers step, how gradients are clipped, in which precision.

Nothing is imported or run. A number is known where it is written: as a literal, a constant of the script, the default of an
argument, or that of an option (``argparse``, click); else its source text is kept and its value is None.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gradlint.errors import UsageError
from gradlint.findings import Location

__all__ = ["Clip", "Number", "Optimizer", "Recipe", "read_recipe"]


@dataclass(frozen=True)
class Number:
    """A number as the script writes it.

    Args:
        text: its source.
        value: None where it cannot be told without running the script.
    """

    text: str
    value: float | None


@dataclass(frozen=True)
class Optimizer:
    """One optimiser that the script makes, or that a trainer makes for it.

    Args:
        name: of its class, such as ``AdamW``; ``""`` where a trainer chooses.
        lr: None where it is left to its default.
        weight_decay: likewise.
    """

    name: str
    lr: Number | None
    weight_decay: Number | None
    location: Location


@dataclass(frozen=True)
class Clip:
    """One call or setting that bounds gradients.

    Args:
        kind: ``norm``, ``value``, or ``unknown`` where the script decides while it runs.
        threshold: None where it is left to a default.
    """

    kind: str
    threshold: Number | None
    location: Location


@dataclass(frozen=True)
class Recipe:
    """What a training script says.

    Args:
        path: of the script.
        clips: in the order of its lines, those that are switched off (a threshold of 0 or None) left out.
        steps: the lines that call ``optimizer.step()`` or hand the loop to a trainer.
        precisions: ``fp16``, ``bf16``, in the order found; empty: single precision, as far as the script says.
    """

    path: str
    optimizers: tuple[Optimizer, ...] = ()
    clips: tuple[Clip, ...] = ()
    steps: tuple[Location, ...] = ()
    precisions: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """The script updates weights, or hands them to something that does."""
        return bool(self.steps)


def read_recipe(path: Path) -> Recipe:
    """Read a script.

    Raises:
        UsageError: it cannot be read, or is no Python.
    """
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"training-script: {path}: cannot be read: {error}") from error
    reader = _Reader(str(path), _constants(tree), _aliases(tree))
    for node in _in_order(tree):
        reader.see(node)
    return reader.recipe()


_CLIPS = {
    "clip_grad_norm_": ("norm", "max_norm", 1),  # kind, keyword and position of the threshold
    "clip_grad_norm": ("norm", "max_norm", 1),
    "clip_grad_value_": ("value", "clip_value", 1),
    "clip_gradients": ("norm", "max_norm", 99),  # Fabric: by keyword
    "dispatch_clip_grad": ("norm", "value", 1),  # timm
    "clip_grads_with_norm_": ("norm", "max_norm", 1),
}
_OPTIMIZERS = {
    "SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD", "LBFGS", "SparseAdam",
    "Adafactor", "Lion", "Lamb", "LAMB", "LARS", "Lars", "FusedAdam", "FusedLAMB", "FusedSGD", "DeepSpeedCPUAdam", "AdamW8bit",
    "Adam8bit", "PagedAdamW", "Muon", "Shampoo", "SOAP", "Prodigy", "Sophia", "AdaBelief",
}  # fmt: skip
_TRAINERS: Mapping[str, tuple[str, str, str | None]] = {
    # the keyword that clips, the one that sets the precision, and the threshold where the first is left out
    "TrainingArguments": ("max_grad_norm", "", "1.0"),
    "Seq2SeqTrainingArguments": ("max_grad_norm", "", "1.0"),
    "SFTConfig": ("max_grad_norm", "", "1.0"),
    "Trainer": ("gradient_clip_val", "precision", None),
}
_PRECISIONS = (
    ("bfloat16", "bf16"),
    ("bf16", "bf16"),
    ("float16", "fp16"),
    ("fp16", "fp16"),
    ("16-mixed", "fp16"),
    ("16-true", "fp16"),
)
_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Add: operator.add, ast.Sub: operator.sub, ast.Pow: operator.pow,
}  # fmt: skip


@dataclass
class _Reader:
    path: str
    constants: Mapping[str, ast.expr]
    aliases: Mapping[str, str]
    optimizers: list[Optimizer] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    steps: list[Location] = field(default_factory=list)
    precisions: dict[str, None] = field(default_factory=dict)

    def recipe(self) -> Recipe:
        return Recipe(self.path, tuple(self.optimizers), tuple(self.clips), tuple(self.steps), tuple(self.precisions))

    def see(self, node: ast.AST) -> None:
        if not isinstance(node, ast.Call):
            return
        name, place = self._called(node), Location(self.path, node.lineno, node.col_offset + 1)
        keywords = {k.arg: k.value for k in node.keywords if k.arg is not None}
        if name in _CLIPS:
            kind, keyword, position = _CLIPS[name]
            if name == "clip_gradients" and "clip_val" in keywords:
                kind, keyword = "value", "clip_val"
            given = keywords.get(keyword) or (node.args[position] if len(node.args) > position else None)
            self._clip(kind, given, place)
        elif name in _OPTIMIZERS:
            lr = keywords.get("lr") or (node.args[1] if len(node.args) > 1 else None)
            self.optimizers.append(Optimizer(name, self._number(lr), self._number(keywords.get("weight_decay")), place))
        elif name in _TRAINERS:
            self._trainer(name, keywords, place)
        elif name in ("autocast", "half", "bfloat16", "to", "Accelerator", "Fabric"):
            words = [ast.unparse(value) for value in (*node.args, *keywords.values())]
            self._precise(*words, {"half": "float16", "bfloat16": "bfloat16"}.get(name, ""))
        elif name == "GradScaler":
            self._precise("float16")
        elif isinstance(node.func, ast.Attribute) and name in ("clamp_", "clip_") and _of_gradient(node.func.value):
            self._clip("value", keywords.get("max") or (node.args[-1] if node.args else None), place)
        if isinstance(node.func, ast.Attribute) and name == "step" and _is_optimizer(node.func.value, *node.args):
            self.steps.append(place)

    def _called(self, node: ast.Call) -> str:
        """The last name of what is called, aliases of imports undone."""
        if isinstance(node.func, ast.Attribute):
            return node.func.attr
        return self.aliases.get(node.func.id, node.func.id) if isinstance(node.func, ast.Name) else ""

    def _trainer(self, name: str, keywords: Mapping[str, ast.expr], place: Location) -> None:
        clips, precise, default = _TRAINERS[name]
        arguments = name != "Trainer"
        if not arguments and not {"gradient_clip_val", "max_epochs", "max_steps", "precision", "accelerator"} & keywords.keys():
            return  # transformers.Trainer: its arguments say the rest
        self.steps.append(place)
        if clips in keywords:
            kind = "norm"
            if "gradient_clip_algorithm" in keywords:
                algorithm = self._resolved(keywords["gradient_clip_algorithm"])
                kind = str(algorithm.value) if isinstance(algorithm, ast.Constant) and algorithm.value else "unknown"
            self._clip(kind, keywords[clips], place)
        elif default is not None:
            self.clips.append(Clip("norm", Number(default, float(default)), place))
        if precise in keywords:
            self._precise(ast.unparse(self._resolved(keywords[precise])))
        if arguments:
            self._precise(*(flag for flag in ("bf16", "fp16") if flag in keywords and ast.unparse(keywords[flag]) != "False"))
            decay, lr = keywords.get("weight_decay"), keywords.get("learning_rate")
            self.optimizers.append(Optimizer("", self._number(lr), self._number(decay), place))

    def _clip(self, kind: str, threshold: ast.expr | None, place: Location) -> None:
        resolved = None if threshold is None else self._resolved(threshold)
        if isinstance(resolved, ast.Constant) and not resolved.value:
            return  # None, 0 or 0.0: switched off
        self.clips.append(Clip(kind, self._number(threshold), place))

    def _precise(self, *words: str) -> None:
        for word in words:
            found = next((name for text, name in _PRECISIONS if text in word), "fp16" if word in ("16", "'16'") else None)
            if found is not None:
                self.precisions[found] = None

    def _number(self, node: ast.expr | None) -> Number | None:
        return None if node is None else Number(ast.unparse(node), self._value(self._resolved(node)))

    def _resolved(self, node: ast.expr) -> ast.expr:
        """What a name, or an attribute such as ``args.lr``, was given in the script."""
        for _ in range(8):  # a constant may be named after another; never in circles
            key = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
            if key is None or key not in self.constants:
                break
            node = self.constants[key]
        return node

    def _value(self, node: ast.expr) -> float | None:
        if isinstance(node, ast.Constant):
            return float(node.value) if isinstance(node.value, int | float) and not isinstance(node.value, bool) else None
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self._value(self._resolved(node.operand))
            return None if inner is None else -inner
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            left, right = self._value(self._resolved(node.left)), self._value(self._resolved(node.right))
            try:
                return None if left is None or right is None else float(_OPERATORS[type(node.op)](left, right))
            except (ArithmeticError, TypeError):
                return None
        return None


def _in_order(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes in the order of their lines."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    yield from sorted(calls, key=lambda node: (node.lineno, node.col_offset))


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Local name to the name imported."""
    froms = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {alias.asname: alias.name for node in froms for alias in node.names if alias.asname}


def _constants(tree: ast.AST) -> dict[str, ast.expr]:
    """Names that the script gives one value, and defaults of options and arguments; a name with two values is unknown."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name | ast.Attribute):
                    found.setdefault(target.id if isinstance(target, ast.Name) else target.attr, []).append(node.value)
        elif isinstance(node, ast.AnnAssign | ast.AugAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found.setdefault(node.target.id, []).append(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("add_argument", "option"):
            default = next((k.value for k in node.keywords if k.arg == "default"), None)
            options = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            name = max(options, key=len, default="").lstrip("-").replace("-", "_")
            if default is not None and name:
                found.setdefault(name, []).append(default)
        elif isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            pairs = [
                *zip(reversed(positional), reversed(node.defaults), strict=False),
                *zip(node.kwonlyargs, node.kw_defaults, strict=True),
            ]
            for argument, value in pairs:
                if value is not None:
                    found.setdefault(argument.arg, []).append(value)
    same = {name: values[0] for name, values in found.items() if len({ast.dump(v) for v in values}) == 1}
    return {name: value for name, value in same.items() if not (isinstance(value, ast.Name) and value.id == name)}


def _of_gradient(node: ast.expr) -> bool:
    """``p.grad``, ``p.grad.data``."""
    while isinstance(node, ast.Attribute):
        if node.attr == "grad":
            return True
        node = node.value
    return False


def _is_optimizer(*named: ast.expr) -> bool:
    """The receiver of ``step()``, or its argument (``scaler.step(optimizer)``), is called like an optimiser."""
    names = " ".join(ast.unparse(node) for node in named).lower()
    return any(word in names for word in ("opt", "scaler", "adam", "sgd")) and "schedul" not in names
