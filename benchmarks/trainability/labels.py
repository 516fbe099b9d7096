"""The measured half of the benchmark, a line of labels.jsonl per configuration: what it is, simple checks, outcomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.trainability.configurations import draw
from benchmarks.trainability.training import label

FILE = Path(__file__).resolve().parent / "labels.jsonl"


def read(file: Path = FILE) -> list[dict[str, Any]]:
    """Every labelled configuration, by seed."""
    if not file.exists():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted(rows, key=lambda row: row["configuration"]["seed"])


def extend(count: int, file: Path = FILE) -> None:
    """Label the configurations of seeds below ``count`` that are not in the file yet, one line at a time, costly ones last."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # a vanished signal would cost a hundred times as much, and is no less vanished
    done = {row["configuration"]["seed"] for row in read(file)}
    missing = [draw(seed) for seed in range(count) if seed not in done]
    for configuration in sorted(missing, key=lambda c: (c.costly, c.seed)):
        row = label(configuration)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row, separators=(",", ":")) + "\n")
        print(configuration.seed, *(outcome["label"] for outcome in row["outcomes"].values()), flush=True)
