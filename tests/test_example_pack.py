"""The example of a rule pack: its own tests pass, and its folder is all that it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradlint import packs
from gradlint.config import Settings
from gradlint.errors import PackError, UsageError

EXAMPLE = Path(__file__).parent.parent / "examples" / "acme"
FOLDER = EXAMPLE / "acme_rules"


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("acme_rules", "twin")]:
        monkeypatch.delitem(sys.modules, name)


def test_its_own_tests_pass():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_folder_of_the_configuration_is_a_pack(gradlint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gradlint.toml").write_text(f"packs = '{FOLDER}'\n")
    (tmp_path / "net.py").write_text((EXAMPLE / "fixtures" / "ac101" / "bad.py").read_text())
    done = gradlint("net.py", "--select", "AC101", "--output-format", "json")
    assert [finding["code"] for finding in json.loads(done.out)["findings"]] == ["AC101"]
    assert "AC101" in gradlint("rules").out
    assert gradlint("explain", "lopsided-gradients").out.startswith("# AC101 lopsided-gradients")
    assert gradlint("net.py", "--select", "AC101", "--isolated").code == 2


def test_a_removed_rule_says_what_to_use():
    catalogue = packs.load_rules([FOLDER])
    for ask in (lambda: catalogue.find("AC100"), lambda: catalogue.current(Settings(select=("AC100",)))):
        with pytest.raises(UsageError, match="AC100 was removed: GL101 exploding-path reports the same"):
            ask()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "there is no such folder"),
        (lambda folder: folder.mkdir(), "has no rules"),
        (lambda folder: (folder.mkdir(), (folder / "__init__.py").write_text("1 / 0")), "cannot be imported: division by zero"),
        (
            lambda folder: (
                folder.mkdir(),
                (folder / "ac101_lopsided_gradients.py").write_text((FOLDER / "ac101_lopsided_gradients.py").read_text()),
            ),
            "AC101 is defined by acme_rules.ac101_lopsided_gradients and twin.ac101_lopsided_gradients",
        ),
    ],
)
def test_a_folder_that_is_no_pack_is_refused(tmp_path, make, message):
    make(tmp_path / "twin")
    with pytest.raises(PackError, match=message):
        packs.load_rules([FOLDER, tmp_path / "twin"])


def test_a_folder_does_not_stand_in_for_another_module(tmp_path):
    (tmp_path / "json").mkdir()
    with pytest.raises(PackError, match="another module is called 'json' already"):
        packs.load_rules([tmp_path / "json"])
    (tmp_path / "not-a-name").mkdir()
    with pytest.raises(PackError, match="its name must be one that Python can import"):
        packs.load_rules([tmp_path / "not-a-name"])
