"""Whatever a model's code does is a failure of its target, named, and of no other: one run with one target for each fault."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GOOD = """
import torch.nn as nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x)
"""
INSIDE = """
import ctypes, os, torch.nn as nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        x = self.fc(x)
        {}
        return x

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x):
        return self.blocks(x)
"""
LINE = 1 + INSIDE.splitlines().index("        {}")
BUILT = GOOD.replace("super().__init__()", "super().__init__(); raise OSError('no disk')")
THREADS = "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
LIMIT = 10  # seconds
FAULTS = {
    "syntax": ("def (", "load", "syntax error", 1),
    "imports": ("import no_such_module", "load", "No module named 'no_such_module'", 1),
    "raises": ("x = 1\nraise ValueError('at import')", "load", "ValueError: at import", 2),
    "raises_building": (BUILT, "build", "OSError: no disk", 6),
    "raises_forward": (INSIDE.format("raise ValueError('in forward')"), "inputs", "ValueError: in forward", LINE),
    "sys_exit": ("import sys\nsys.exit(0)", "load", "called sys.exit(0)", 2),
    "os_exit": ("import os\nos._exit(0)", "load", "ended the process with exit code 0 while the file was imported", None),
    "os_exit_forward": (INSIDE.format("os._exit(0)"), "", "exit code 0 in forward, in blocks.0", None),
    "interrupt": ("raise KeyboardInterrupt", "analyse", "KeyboardInterrupt", None),
    "segfault": ("import ctypes\nctypes.string_at(0)", "load", "died of SIGSEGV (a segmentation fault) while the file", 2),
    "segfault_forward": (INSIDE.format("ctypes.string_at(0)"), "", "died of SIGSEGV (a segmentation fault) ", LINE),
    "killed": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "load", "died of SIGKILL", None),
    "loop": ("while True:\n    pass", "load", f"did not finish within {LIMIT} s", None),
    "memory": ("kept = []\nwhile True:\n    kept.append(b'x' * (1 << 24))", "load", "took more than 1 GiB of memory", 3),
    "threads": (THREADS, "load", "started more than 1000 threads and processes", None),
    "reads": ("input('name? ')", "load", "EOFError", 1),
    "binary": ("\0\x01\x02", "load", "null bytes", 1),
    "empty": ("", "load", "no model found", None),
    "missing": (None, "load", "no such file", None),
}
HEALTHY = {
    "good": GOOD,
    "prints": "import os, sys\nprint('printed'); os.system('echo from below'); sys.stderr.write('to stderr')\n" + GOOD,
    "closes": "import os, sys\nos.close(0); sys.stdout = None\n" + GOOD,
    "elsewhere": "import os\nos.chdir('/')\n" + GOOD,
    "patches": "import torch\ntorch.Tensor.relu = torch.relu = torch.save = None\ntorch.set_grad_enabled(False)\n" + GOOD,
}


def gradlint(*arguments, **more):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADLINT_")} | more.pop("env", {})
    return [sys.executable, "-m", "gradlint", *map(str, arguments)], {"env": environment, "text": True, **more}


def run(*arguments, **more):
    command, more = gradlint(*arguments, **more)
    return subprocess.run(command, capture_output=True, check=False, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    for name, source in {**{name: fault[0] for name, fault in FAULTS.items()}, **HEALTHY}.items():
        if source is not None:
            (folder / f"{name}.py").write_text(source)
    (folder / "latin.py").write_bytes(b"name = 'caf\xe9'\n")
    (folder / "folder.py").mkdir()
    (folder / "weights.pt").write_bytes(b"PK")
    return folder


@pytest.fixture(scope="module")
def done(folder):
    """One run of everything, on one server."""
    names = [*(f"{name}.py" for name in {**FAULTS, **HEALTHY}), "latin.py", "folder.py", "weights.pt"]
    flags = ("--timeout", LIMIT, "--max-memory", "1G", "-j", 2, "--output-format", "json")
    return run(*names, *flags, cwd=folder)


@pytest.fixture(scope="module")
def report(done):
    return json.loads(done.stdout)


def failure_of(report, file):
    (failure,) = (failure for failure in report["failures"] if failure["target"].partition(":")[0] == file)
    return failure


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_a_named_failure_of_its_target(report, name):
    _, stage, message, line = FAULTS[name]
    failure = failure_of(report, f"{name}.py")
    assert message in failure["message"]
    assert stage in failure["stage"]
    assert line is None or failure["where"].endswith(f"{name}.py:{line}")


@pytest.mark.parametrize(("file", "message"), [("latin.py", "utf-8"), ("folder.py", "is a folder"), ("weights.pt", "pickle")])
def test_what_is_no_python_is_a_named_failure(report, file, message):
    assert message in failure_of(report, file)["message"]


def test_a_crash_in_forward_says_the_layer(report):
    assert failure_of(report, "segfault_forward.py")["message"].endswith("in blocks.0")


def test_healthy_targets_keep_their_results_and_the_run_exits_2(done, report):
    assert done.returncode == 2
    assert [target["name"] for target in report["targets"]] == [f"{name}.py:Net" for name in HEALTHY]
    assert len(report["failures"]) == len(FAULTS) + 3


def test_what_models_print_goes_to_stderr(done):
    assert "printed" in done.stderr
    assert "from below" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def looping(tmp_path):
    """A run whose worker is in an endless loop, and the worker."""
    (tmp_path / "loop.py").write_text("import os\nprint('started', os.getpid(), flush=True)\nwhile True:\n    pass\n")
    command, more = gradlint("loop.py", cwd=tmp_path)
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        preexec_fn=interruptible,  # noqa: PLW1509 - the child of a single thread
        **more,
    ) as process:
        line = process.stderr.readline()
        assert line.startswith("started"), line
        yield process, int(line.split()[1])
        process.kill()


def interruptible():
    """A run in the background, as some CI starts its jobs, ignores Ctrl-C and so would what it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_exits_130_and_leaves_no_process(looping):
    process, worker = looping
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert "interrupted" in process.stderr.read()
    assert gone(worker)


def test_when_the_client_is_killed_its_workers_end(looping):
    process, worker = looping
    process.kill()
    process.wait(30)
    assert gone(worker)


def gone(process):
    for _ in range(100):
        if not Path(f"/proc/{process}").exists():
            return True
        time.sleep(0.1)
    return False


def test_a_closed_stdout_is_no_pass_and_no_traceback(folder):
    command, more = gradlint("good.py", cwd=folder)
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" >&-', "/bin/sh", *command],
        check=False,
        stderr=subprocess.PIPE,
        **more,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_no_home_and_nowhere_to_write(folder):
    """The client too may write nothing, as on a file system that is mounted read-only."""
    program = (
        "import os, sys; from gradlint.worker import sandbox; os.environ.pop('HOME', None); sandbox.enter('auto', []);"
        "from gradlint.cli import main; main(sys.argv[1:])"
    )
    _, more = gradlint(cwd=folder, env={"TMPDIR": "/no/such/folder"})
    more["env"].pop("HOME", None)
    command = [sys.executable, "-c", program, "good.py", "--output-format", "json"]
    done = subprocess.run(command, capture_output=True, check=False, **more)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]
