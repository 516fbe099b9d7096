"""What the kernel refuses a worker: each in a process of its own, for what is refused stays refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gradlint.errors import UsageError
from gradlint.worker import sandbox
from gradlint.worker.environment import allowed

needs_landlock = pytest.mark.skipif(not sandbox.kernel().landlock, reason="this kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(not sandbox.kernel().seccomp, reason="this kernel filters no system calls")


def inside(code, *arguments, mode="auto"):
    program = f"import sys; from gradlint.worker import sandbox; sandbox.enter({mode!r}, sys.argv[1:2])\n{code}"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_landlock
@pytest.mark.parametrize(
    "code",
    [
        "open(sys.argv[2], 'w')",
        "open(sys.argv[2], 'a')",
        "import os; os.remove(sys.argv[2])",
        "import os; os.truncate(sys.argv[2], 0)",
        "import os; os.mkdir(sys.argv[2] + '.d')",
        "import os; os.rename(sys.argv[2], sys.argv[2] + '.d')",
        "import os; os.symlink('/', sys.argv[2] + '.d')",
        "import subprocess; subprocess.run(['rm', sys.argv[2]], check=True)",
    ],
)
def test_files_outside_its_folder_stay_as_they_are(tmp_path, code):
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.write_text("mine")
    done = inside(code, own, other)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert other.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "own"]


@needs_landlock
def test_its_own_folder_and_the_null_device_can_be_written_and_all_can_be_read(tmp_path):
    code = (
        "import os, pathlib, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "with tempfile.TemporaryDirectory() as there: pathlib.Path(there, 'x').write_text('x')\n"
        "pathlib.Path(sys.argv[1], 'kept').write_text(pathlib.Path(sandbox.__file__).read_text())\n"
        "open(os.devnull, 'w').write('x')"
    )
    done = inside(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kept").read_text().startswith('"""')


@needs_seccomp
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_PACKET", "AF_NETLINK"])
def test_there_is_no_network(family):
    done = inside(f"import socket; socket.socket(socket.{family}, socket.SOCK_DGRAM)")
    assert done.returncode == 1
    assert "PermissionError" in done.stderr


@needs_seccomp
def test_processes_may_talk_to_each_other():
    assert inside("import socket; a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'").returncode == 0
    assert inside("import multiprocessing as m; print(m.get_context('fork').Pool(2).map(abs, [-1]))").stdout == "[1]\n"


def test_off_refuses_nothing(tmp_path):
    done = inside("open(sys.argv[2], 'w'); import socket; socket.socket()", tmp_path, tmp_path / "x", mode="off")
    assert done.returncode == 0, done.stderr


def test_what_is_required_and_missing_is_an_error(monkeypatch):
    monkeypatch.setattr(sandbox, "kernel", lambda: sandbox.Kernel(landlock=0, seccomp=True))
    with pytest.raises(UsageError, match="no Landlock"):
        sandbox.enter("require", [])


def test_a_worker_that_is_refused_something_says_what_lets_it(tmp_path):
    (tmp_path / "writes.py").write_text("open('log.txt', 'w')")
    command = [sys.executable, "-m", "gradlint", "writes.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    if sandbox.kernel().landlock:
        assert "--sandbox off lets them" in done.stdout
        assert not (tmp_path / "log.txt").exists()


def test_only_harmless_variables_reach_the_models():
    given = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "LC_ALL": "C.UTF-8",
        "AWS_SECRET_ACCESS_KEY": "s",
        "HF_TOKEN": "s",
        "CONDA_TOKEN": "s",
        "CONDA_PREFIX": "/conda",
        "OMP_NUM_THREADS": "3",
        "GITHUB_TOKEN": "s",
        "DATA": "/data",
    }
    seen = allowed(given, ["DATA"])
    assert {name: seen[name] for name in given if name in seen} == {
        name: given[name] for name in ("PATH", "HOME", "LC_ALL", "CONDA_PREFIX", "OMP_NUM_THREADS", "DATA")
    }
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in allowed(given, sandboxed=False)


def test_a_model_sees_what_is_passed_on_and_no_more(tmp_path):
    source = (
        "import os\n"
        "print('seen:', *(name for name in os.environ if name.startswith('MY_')), repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    )
    (tmp_path / "model.py").write_text(source)
    command = [sys.executable, "-m", "gradlint", "model.py", "--pass-env", "MY_DATA"]
    environment = {**os.environ, "MY_DATA": "1", "MY_TOKEN": "2"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert "seen: MY_DATA ''\n" in done.stderr
