"""Does any file make a reader fail in another way than by saying what is wrong with it? Coverage-guided, with atheris.

    python -m benchmarks.fuzz                      every reader, 12 minutes altogether
    python -m benchmarks.fuzz --minutes 1 pt2      one of them
    python -m benchmarks.fuzz --work FOLDER        keep what was grown and found there

A reader may return or raise a GradlintError; whatever else it raises is a failure. Each is written to ``FOLDER/failed/READER``,
one input for each place that raised, and the run goes on. Inputs start from ``tests/fuzz/READER``, which the tests replay.
Needs ``pip install atheris``. Only files that are data are fuzzed: nothing in an input is executed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SEEDS = Path(__file__).parent.parent / "tests" / "fuzz"
INSTRUMENTED = ["gradlint.load", "gradlint.config", "gradlint.trace.weights", "gradlint.saved", "gradlint.baseline"]
_RAN = re.compile(r"^Done (\d+) runs in (\d+) second", re.MULTILINE)
_SPLIT = b"\n--8<--\n"  # between the members of an archive, in one input


def pt2(path: Path) -> None:
    """The file as it is."""
    from gradlint.load import exported

    for found in exported.load(str(path), {}) or []:
        found.build()


def members(path: Path) -> None:
    """The JSON in a ``.pt2`` file, in a zip that is whole: checksums keep random bytes out of it."""
    program, _, rest = path.read_bytes().partition(_SPLIT)
    config, _, data = rest.partition(_SPLIT)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("net/models/model.json", program)
        file.writestr("net/data/weights/model_weights_config.json", config)
        file.writestr("net/data/weights/weight_0", data)
    path.write_bytes(packed.getvalue())
    pt2(path)


def safetensors(path: Path) -> None:
    """Values for a small model."""
    from torch import nn

    from gradlint.trace import recording
    from gradlint.trace.weights import Weights

    with recording() as laws:
        Weights(path).give(nn.Linear(3, 2), laws)


def index(path: Path) -> None:
    """The JSON that says which file has which tensors; none of them is there."""
    safetensors(path)


def config(path: Path) -> None:
    """A model of transformers; it is not built."""
    from gradlint.load import huggingface

    huggingface.load(str(path), {})


def notebook(path: Path) -> None:
    """Its cells, read and sorted; they are not run."""
    from gradlint.load.notebook import needed

    needed(path, str(path), "")


def toml(path: Path) -> None:
    """The configuration of gradlint."""
    from gradlint.config import configure

    configure(config=path)


def report(path: Path) -> None:
    """A report that was written as JSON."""
    from gradlint.saved import read_report

    read_report(path.read_bytes().decode("utf-8", "replace"), str(path))


def baseline(path: Path) -> None:
    """A file of accepted findings."""
    from gradlint.baseline import read

    read(path)


READERS: Mapping[str, tuple[str, Callable[[Path], None]]] = {
    "pt2": ("net.pt2", pt2),
    "members": ("net.pt2", members),
    "safetensors": ("model.safetensors", safetensors),
    "index": ("model.safetensors.index.json", index),
    "config": ("config.json", config),
    "notebook": ("net.ipynb", notebook),
    "toml": ("gradlint.toml", toml),
    "report": ("report.json", report),
    "baseline": ("gradlint-baseline.json", baseline),
}
"""Name of the reader to the name of its file, and what reads it."""


def read(reader: str, data: bytes, folder: Path) -> None:
    """Read one input; any exception but a GradlintError is a failure.

    Args:
        folder: where the file is written for it.
    """
    from gradlint.errors import GradlintError

    name, work = READERS[reader]
    path = folder / name
    path.write_bytes(data)
    try:
        work(path)
    except GradlintError:
        return


def place(error: BaseException) -> str:
    """What raised, and where: one failure is not told twice."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/gradlint/" in frame.filename] or frames
    return f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"


def fuzz(reader: str, arguments: Sequence[str], failed: Path) -> None:
    """One reader, in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        import gradlint.baseline
        import gradlint.config
        import gradlint.load
        import gradlint.saved
        import gradlint.trace.weights  # noqa: F401
    seen: set[str] = set()
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108 - memory, if there is

    def one(data: bytes) -> None:
        try:
            read(reader, data, folder)
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            where = place(error)
            if where not in seen:
                seen.add(where)
                failed.mkdir(parents=True, exist_ok=True)
                name = hashlib.sha256(where.encode()).hexdigest()[:12]
                (failed / name).write_bytes(data)
                (failed / f"{name}.txt").write_text(f"{where}\n{traceback.format_exc()}", "utf-8")

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("readers", nargs="*", choices=[*READERS, []], help="only these")
    parser.add_argument("--minutes", type=float, default=12.0, help="altogether")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "gradlint-fuzz", help="what is grown and found"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    seconds = 60 * given.minutes / len(given.readers or READERS)
    if given.one:
        grown = given.work / "grown" / given.one
        grown.mkdir(parents=True, exist_ok=True)
        options = [f"-max_total_time={seconds:.0f}", "-timeout=30", "-rss_limit_mb=4096", "-max_len=20000", "-verbosity=1"]
        fuzz(
            given.one,
            [*options, f"-artifact_prefix={grown}-", str(grown), str(SEEDS / given.one)],
            given.work / "failed" / given.one,
        )
    failures = 0
    for reader in given.readers or READERS:
        command = [sys.executable, "-m", "benchmarks.fuzz", reader, "--one", reader, "--work", str(given.work)]
        done = subprocess.run(  # noqa: S603 - this module again
            [*command, "--minutes", str(seconds / 60)], check=False, capture_output=True, text=True, errors="replace"
        )
        ran = _RAN.search(done.stderr)
        found = sorted((given.work / "failed" / reader).glob("*.txt"))
        grown = len(list((given.work / "grown" / reader).glob("*")))
        told = f"{ran[1]} inputs in {ran[2]} s" if ran else f"ended early, exit code {done.returncode}: {done.stderr[-800:]}"
        print(f"{reader}: {told}, {grown} that reach something new, {len(found)} failures", flush=True)
        print(
            json.dumps([file.read_text("utf-8").partition("\n")[0] for file in found]) if found else "", end="\n" if found else ""
        )
        failures += len(found) + (ran is None)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
