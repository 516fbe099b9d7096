"""Real values of a model's parameters, from safetensors: read one tensor at a time from memory-mapped files, never unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from gradlint.errors import LoadError
from gradlint.moments import Moments
from gradlint.moments.tables import pair_averages
from gradlint.trace.inits import Laws
from gradlint.trace.law import Law

__all__ = ["Weights"]

_BLOCK = 1 << 22  # entries that are looked at together
_SHOWN = 4
_INDEX = "model.safetensors.index.json"

Array = npt.NDArray[np.float64]


class Weights:
    """The tensors of ``model.safetensors``, of an index of several such files, or of a folder with either.

    Raises:
        LoadError: no such file, or it is of another kind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in self._found():
            with self._open(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118  (no mapping: it cannot be iterated over)
                    self._files[name] = file
                    self._shapes[name] = tuple(tensors.get_slice(name).get_shape())

    def give(self, model: nn.Module, laws: Laws) -> list[str]:
        """Give the parameters of ``model`` these values; those that wait for theirs get them when they are asked for.

        Returns:
            What is not right about the file: parameters without values, and values without parameters.

        Raises:
            LoadError: no name fits, or a shape does not.
        """
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        match = self._matched({name for each in names.values() for name in each})
        missing: list[str] = []
        for name, parameter in model.named_parameters():
            known = next((match[n] for n in names[id(parameter)] if n in match), None)
            if known is None:
                missing.append(name)
                continue
            if self._shapes[known] != tuple(parameter.shape):
                here, there = list(parameter.shape), list(self._shapes[known])
                raise LoadError(f"{self._path}: {known} has the shape {there}, the model's {name} {here}")
            laws.give(parameter, self._law(known), partial(self.tensor, known))
            if parameter not in laws.deferred:
                parameter.data.copy_(self.tensor(known))
        used = set(match.values()) | {name for name, _ in model.named_buffers()}
        spare = sorted(name for name in self._files if name not in used)
        notes = [f"{self._path.name} has no values for {_listed(missing)}: judged by their laws"] if missing else []
        return notes + ([f"{self._path.name}: no parameter is called {_listed(spare)}"] if spare else [])

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor."""
        with self._open(self._files[name]) as tensors:
            found: torch.Tensor = tensors.get_tensor(name)
            return found

    def _matched(self, wanted: set[str]) -> Mapping[str, str]:
        """The model's names, with those in the file; one prefix may be there more or less (``module.``, ``model.``)."""
        best: dict[str, str] = {}
        prefixes = {""} | {f"{name.split('.')[0]}." for name in (*wanted, *self._files) if "." in name}
        for prefix in sorted(prefixes, key=lambda p: (len(p), p)):
            longer = {name: prefix + name for name in wanted if prefix + name in self._files}
            shorter = {
                n: n.removeprefix(prefix) for n in wanted if n.startswith(prefix) and n.removeprefix(prefix) in self._files
            }
            best = max(best, longer, shorter, key=len)
        if not best:
            hint = f"it has {_listed(sorted(self._files))}; the model has {_listed(sorted(wanted))}"
            raise LoadError(f"{self._path} holds no parameter of this model", hint=hint)
        return best

    def _law(self, name: str) -> Law:
        """The measured law of one tensor, block by block."""
        shape = self._shapes[name]
        rest = shape[1:]
        tables: list[tuple[int, Array]] = []
        rows: list[Array] = []
        columns: Array = np.zeros(rest)
        low, high = np.inf, -np.inf
        for block in self._blocks(name):
            tables.append((len(block), pair_averages(block.reshape(len(block), *(n for n in rest if n > 1)), first=1)))
            columns = columns + block.sum(0)
            rows.append((block.reshape(len(block), -1) ** 2).mean(1))
            low, high = min(low, float(block.min())), max(high, float(block.max()))
        if not tables:
            return Law("constant", 0.0, 0.0, Moments.iid(shape, 0.0, 0.0))
        total = sum(n for n, _ in tables)
        along: Array = np.sum([n * table for n, table in tables], axis=0) / total
        across = pair_averages((columns / total).reshape([n for n in rest if n > 1]))
        table = np.stack([across, along]) if total > 1 else np.asarray(along)
        mean, square = float(columns.mean() / total), float(along[(-1,) * along.ndim])
        moments = Moments.of_averages(shape, mean, table)
        size = np.sqrt(np.concatenate(rows))
        std, average = max(square - mean**2, 0.0) ** 0.5, float(size.mean())

        def load() -> npt.NDArray[Any]:
            return self.tensor(name).to(torch.float32).numpy()

        spread = float(size.std()) / average if len(shape) > 1 and average else 0.0
        return Law("values", mean, std, moments, low=low, high=high, row_spread=spread, load=load)

    def _blocks(self, name: str) -> Iterator[Array]:
        shape = self._shapes[name]
        if not shape:
            yield self.tensor(name).to(torch.float64).numpy().reshape(1)
            return
        step = max(_BLOCK * shape[0] // max(int(np.prod(shape)), 1), 1)
        with self._open(self._files[name]) as tensors:
            piece = tensors.get_slice(name)
            for first in range(0, shape[0] if all(shape) else 0, step):
                yield piece[first : first + step].to(torch.float64).numpy()

    def _found(self) -> list[Path]:
        path = self._path
        if path.is_dir():
            whole = path / "model.safetensors"
            path = whole if whole.exists() else path / _INDEX
        if not path.exists():
            raise LoadError(f"no such file: {path}", hint="--weights takes model.safetensors, its index, or their folder")
        if path.suffix != ".json":
            return [path]
        try:
            files = sorted(set(json.loads(path.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LoadError(f"{path} is no index of safetensors files") from error
        return [path.parent / file for file in files]

    def _open(self, file: Path) -> Any:
        try:
            return safe_open(str(file), framework="pt")
        except (SafetensorError, OSError) as error:
            hint = "convert other formats with safetensors.torch.save_file(model.state_dict(), ...); gradlint never unpickles"
            raise LoadError(f"{file} is no safetensors file: {error}", hint=hint) from error


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
