"""A ``.pt2`` file as the zip of JSON and raw numbers that it is; what is pickled in it is not read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gradlint.errors import LoadError

__all__ = ["DTYPES", "Archive", "read", "sizes"]

DTYPES: Mapping[int, torch.dtype] = {  # numbers of the format, torch/_export/serde/schema.py
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
_MAJOR = 8
_AGAIN = "load it with torch.export.load where it was made, and save it with torch.export.save of torch 2.9 or later"


@dataclass(frozen=True)
class Archive:
    """What a file holds.

    Args:
        program: the JSON of the exported program.
        tensors: its parameters, buffers and constants by name; those that are tied are one tensor.
        trainable: names of the parameters.
    """

    program: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    trainable: frozenset[str]


def read(path: Path, target: str) -> Archive:
    """The program and its tensors.

    Raises:
        LoadError: no zip file, no exported program in it, of another version, or with pickled weights.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return _archive(_Members(file, path, target))
    except FileNotFoundError as error:
        hint = "paths are relative to the folder that gradlint runs in"
        raise LoadError(f"no such file: {path}", target=target, hint=hint) from error
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError, json.JSONDecodeError) as error:
        hint = "a .pt2 file is what torch.export.save writes"
        raise LoadError(f"{path} cannot be read: {error}", target=target, hint=hint) from error


def sizes(meta: Mapping[str, Any]) -> list[int]:
    """The shape of a tensor; a dynamic size counts as what it was exported with."""
    return [_size(item) for item in meta["sizes"]]


class _Members:
    def __init__(self, file: zipfile.ZipFile, path: Path, target: str) -> None:
        self.file, self.path, self.target = file, path, target
        self.names = file.namelist()

    def find(self, suffix: str) -> str | None:
        return next((name for name in self.names if name.endswith(suffix)), None)

    def json(self, name: str) -> Any:
        return json.loads(self.file.read(name).decode("utf-8"))

    def refused(self, message: str, hint: str) -> LoadError:
        return LoadError(f"{self.path} {message}", target=self.target, hint=hint)


def _archive(members: _Members) -> Archive:
    programs = [name for name in members.names if "/models/" in name and name.endswith(".json")]
    if not programs:
        if members.find("serialized_exported_program.json"):
            raise members.refused("is of a torch before 2.8: its weights are pickled, and gradlint never unpickles", _AGAIN)
        if any("aotinductor" in name for name in members.names):
            raise members.refused("is compiled by AOTInductor: there is no graph in it", "save the exported program itself")
        raise members.refused("holds no exported program", "a .pt2 file is what torch.export.save writes")
    if len(programs) > 1:
        raise members.refused(f"holds {len(programs)} programs", "save one program per file")
    program = members.json(programs[0])
    if program["schema_version"]["major"] != _MAJOR:
        version = ".".join(map(str, program["schema_version"].values()))
        raise members.refused(f"is of version {version} of the format, gradlint reads {_MAJOR}", _AGAIN)
    order = members.find("/byteorder")
    if order is not None and members.file.read(order).strip() != b"little":
        raise members.refused("was written on a big-endian machine", _AGAIN)
    tensors: dict[str, torch.Tensor] = {}
    trainable: set[str] = set()
    for kind in ("weights", "constants"):
        name = members.find(f"/data/{kind}/model_{kind}_config.json")
        if name is None:
            continue
        stored: dict[str, torch.Tensor] = {}
        for key, entry in members.json(name)["config"].items():
            if entry["use_pickle"] or entry["tensor_meta"] is None:
                raise members.refused(f"has {key!r} pickled, and gradlint never unpickles", _AGAIN)
            path = f"{name.rpartition('/')[0]}/{entry['path_name']}"
            if path not in stored:
                stored[path] = _tensor(members, members.file.read(path), entry["tensor_meta"], key)
            tensors[key] = stored[path]
            if entry["is_param"]:
                trainable.add(key)
    return Archive(program, tensors, frozenset(trainable))


def _tensor(members: _Members, data: bytes, meta: Mapping[str, Any], name: str) -> torch.Tensor:
    dtype = DTYPES.get(meta["dtype"])
    if dtype is None:
        raise members.refused(f"has {name!r} in a type that gradlint does not read", "convert it before the export")
    shape = sizes(meta)
    if not data:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(data), dtype=dtype)
    return flat.as_strided(shape, [_size(item) for item in meta["strides"]], _size(meta["storage_offset"])).clone()


def _size(item: Mapping[str, Any]) -> int:
    if "as_int" in item:
        return int(item["as_int"])
    hint = item["as_expr"].get("hint") or {}
    return int(hint.get("as_int", 2))
