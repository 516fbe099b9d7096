"""``net.ipynb``: the models that the cells of a notebook define, and nothing else of what it does.

Of the notebook only those statements run that its models need: the classes and functions themselves, and what their code names,
as far as it goes. Training loops, plots and downloads stay where they are. A line is named as ``net.ipynb:cell 3:5``, the fifth
line of the third cell with code.
"""

from __future__ import annotations

import ast
import linecache
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from symtable import SymbolTable, symtable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gradlint.errors import LoadError
from gradlint.findings import Location
from gradlint.load.discover import FACTORY, models_in, pick, unnamed
from gradlint.load.execute import importing, running
from gradlint.load.pyfile import split

if TYPE_CHECKING:
    from gradlint.load.loaded import Loaded

__all__ = ["load", "needed"]

_MAGIC = re.compile(r"^(\s*)([%!]|\w+\s*=\s*[%!]|\w[\w.]*\?+\s*$|\?+\w)")
_PYTHON = ("%%time", "%%timeit", "%%capture", "%%prun")
_MODEL = re.compile(r"Module|Model|Net|Sequential|Block|Layer|nn\.")
_INITIALISES = re.compile(r"(^|[._])(apply|init\w*|reset_parameters|append|extend|add_module|register_\w+|insert|update)$")


def load(target: str, arguments: Mapping[str, Any]) -> list[Loaded] | None:
    """The models of a notebook; None if the target is none.

    Raises:
        LoadError: no such file, no notebook, nothing that can be run, or no model in it.
    """
    text, name = split(target)
    path = Path(text)
    if path.suffix != ".ipynb":
        return None
    wanted = needed(path, target, name.partition(".")[0])
    file, folder = str(path), str(path.resolve().parent)
    module = ModuleType(path.stem)
    sys.modules[module.__name__] = module  # dataclasses look a class up by its module
    with importing(target, file), running(folder, file):
        for statement in wanted:
            code = compile(ast.Module([statement.tree], []), statement.file, "exec")
            exec(code, vars(module))  # noqa: S102 - running what the user's models need is what was asked for
    places = {n: Location(s.file, s.tree.lineno) for s in wanted for n in s.binds}
    if name:
        return [pick(module, name, target, file, folder, arguments, places)]
    if arguments:
        raise unnamed(module, target, file)
    return models_in(module, target, file, folder, places)


def needed(path: Path, target: str, name: str) -> list[_Statement]:
    """The statements that the models of a notebook need, in their order; nothing is run.

    Args:
        name: of the one model that is wanted; empty for all.

    Raises:
        LoadError: no such file, no notebook, or what is no Python.
    """
    cells = _cells(path, target)
    with importing(target, str(path)):
        statements = [s for number, source in cells for s in _statements(str(path), number, source)]
    return _needed(statements, name)


def _cells(path: Path, target: str) -> list[tuple[int, str]]:
    """Number and source of the cells with code."""
    with importing(target, str(path)):
        import nbformat  # noqa: PLC0415 - optional
    try:
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        sources = [str(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    except FileNotFoundError as error:
        hint = "paths are relative to the folder that gradlint runs in"
        raise LoadError(f"no such file: {path}", target=target, hint=hint) from error
    except Exception as error:
        raise LoadError(f"{path} is no notebook: {error}", target=target, hint="a notebook is what Jupyter saves") from error
    return list(enumerate(sources, start=1))


@dataclass(frozen=True)
class _Statement:
    """One statement at the top of a cell.

    Args:
        binds: the names that it defines, or changes in place.
        reads: the names of the notebook in it, the bodies of functions included.
    """

    tree: ast.stmt
    file: str
    binds: frozenset[str]
    reads: frozenset[str]


def _statements(path: str, number: int, source: str) -> Iterator[_Statement]:
    file = f"{path}:cell {number}"
    text = _without_magics(source)
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    for tree in ast.parse(text, file).body:
        reads = frozenset(_read(symtable(ast.unparse(tree), file, "exec")))
        yield _Statement(tree, file, frozenset(_bound(tree)), reads)


def _without_magics(source: str) -> str:
    """The cell with what IPython understands and Python does not left out; lines keep their numbers."""
    if source.startswith("%%"):
        first, _, rest = source.partition("\n")
        return "\n" + _without_magics(rest) if first.split()[0] in _PYTHON else ""
    return "\n".join(_MAGIC.sub(r"\1pass  # \2", line) for line in source.split("\n"))


def _read(scope: SymbolTable) -> Iterator[str]:
    """Names of the notebook that are read in a scope, not the local ones of its functions."""
    top = scope.get_type() == "module"
    yield from (s.get_name() for s in scope.get_symbols() if s.is_referenced() and (top or s.is_global()))
    for inner in scope.get_children():
        yield from _read(inner)


def _bound(tree: ast.stmt) -> Iterator[str]:
    match tree:
        case ast.Import() | ast.ImportFrom():
            yield from (alias.asname or alias.name.partition(".")[0] for alias in tree.names)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield tree.name
        case ast.Expr(value=ast.Call() as call):  # layers.append(...), model.apply(...), nn.init.zeros_(model.weight)
            if _INITIALISES.search(ast.unparse(call.func).rstrip("_")) or ".init." in ast.unparse(call.func):
                yield from (node.id for node in map(_root, (call.func, *call.args)) if isinstance(node, ast.Name))
        case ast.Expr():
            return
        case _:
            for inner in ast.walk(tree):
                if isinstance(inner, ast.Expr):
                    yield from _bound(inner)
            for node in ast.walk(tree):
                if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
                    root = _root(node)
                    if isinstance(root, ast.Name):
                        yield root.id


def _root(node: ast.expr) -> ast.expr:
    """``a`` of ``a.b[0].c``."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node


def _needed(statements: Sequence[_Statement], name: str) -> list[_Statement]:
    """The statements that define models, and what these need, in their order."""
    classes = {s.tree.name: s.tree for s in statements if isinstance(s.tree, ast.ClassDef)}
    models: set[str] = set()
    for _ in classes:  # bases may be other classes of the notebook
        models |= {n for n, tree in classes.items() if any(_is_model(ast.unparse(base), models, classes) for base in tree.bases)}
    makers = {s.tree.name for s in statements if isinstance(s.tree, ast.FunctionDef) and FACTORY.fullmatch(s.tree.name)}
    made = {i for i, s in enumerate(statements) if isinstance(s.tree, ast.Assign) and _makes(s.tree.value, models | makers)}
    wanted = {i for i, s in enumerate(statements) if i in made or s.binds & ({name} if name else models | makers)}
    wanted = {i for i in wanted if not isinstance(statements[i].tree, ast.Expr | ast.For | ast.While) or i in made}
    while True:
        names = frozenset().union(*(statements[i].reads | statements[i].binds for i in wanted))
        more = {i for i, s in enumerate(statements) if s.binds & names and not _is_main(s.tree)}
        if more <= wanted:
            return [statements[i] for i in sorted(wanted)]
        wanted |= more


def _is_model(base: str, models: set[str], classes: Mapping[str, ast.ClassDef]) -> bool:
    return base in models or (base not in classes and bool(_MODEL.search(base)))


def _makes(value: ast.expr, makers: set[str]) -> bool:
    """The value is a call of a model's class or of a maker, whatever is called on the result: ``Net(3).to(device)``."""
    while isinstance(value, ast.Call):
        name = ast.unparse(value.func)
        if name in makers or re.fullmatch(r"(torch\.)?nn\.[A-Z]\w*", name):
            return True
        value = value.func.value if isinstance(value.func, ast.Attribute) else value.func
    return False


def _is_main(tree: ast.stmt) -> bool:
    return isinstance(tree, ast.If) and "__name__" in ast.unparse(tree.test)
