"""Every input that a fuzzer started from or found: read, or refused by name. ``python -m benchmarks.fuzz`` looks for more."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fuzz import READERS, SEEDS, read

INPUTS = sorted(path.relative_to(SEEDS).as_posix() for reader in READERS for path in (SEEDS / reader).iterdir())


def test_every_reader_has_inputs():
    assert {Path(name).parts[0] for name in INPUTS} == set(READERS)


@pytest.mark.filterwarnings("ignore")  # of libraries, about the nonsense that they are given
@pytest.mark.parametrize("name", INPUTS)
def test_it_is_read_or_refused(name, tmp_path):
    read(Path(name).parts[0], (SEEDS / name).read_bytes(), tmp_path)
