"""How long does a commit wait? The local hook of docs/ci.md, run by pre-commit in a scratch repository with one model.

    python -m benchmarks.hook           best of three: with pre-commit itself, and the hook alone as pre-commit times it

The first run after a change of the model's file, then runs where nothing has changed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 3
HOOK = {
    "id": "gradlint",
    "name": "gradlint",
    "entry": f"{sys.executable} -m gradlint",
    "language": "unsupported",
    "pass_filenames": False,
    "verbose": True,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        project.mkdir()
        source = (ROOT / "fixtures" / "gl201" / "good.py").read_text("utf-8")
        (project / "model.py").write_text(source)
        (project / "gradlint.toml").write_text('[[target]]\nname = "net"\nmodel = "model.py"\n')
        (project / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [{"repo": "local", "hooks": [HOOK]}]}))
        run(project, "git", "init", "--quiet", ".")
        run(project, "git", "add", "-A")
        print("| the model's file | commit waits (s) | gradlint alone (s) |\n|---|---|---|")
        changed = []
        for number in range(REPEATS):
            (project / "model.py").write_text(f"{source}\n# change {number}\n")
            run(project, "git", "add", "-A")
            changed.append(timed(project))
        row("changed", changed)
        row("unchanged", [timed(project) for _ in range(REPEATS)])


def timed(project: Path) -> tuple[float, float]:
    """Seconds of the whole run and of the hook."""
    start = time.perf_counter()
    out = run(project, sys.executable, "-m", "pre_commit", "run", "--all-files")
    return time.perf_counter() - start, float(re.search(r"duration: ([\d.]+)s", out)[1])


def run(project: Path, *command: str) -> str:
    env = {**os.environ, "PRE_COMMIT_HOME": str(project.parent / "hooks")}
    return subprocess.run(command, cwd=project, env=env, text=True, capture_output=True, check=True).stdout  # noqa: S603 - ours


def row(name: str, times: list[tuple[float, float]]) -> None:
    whole, alone = (min(column) for column in zip(*times, strict=True))
    print(f"| {name} | {whole:.2f} | {alone:.2f} |")


if __name__ == "__main__":
    main()
