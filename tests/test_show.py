"""`gradlint show` from the outside."""

from __future__ import annotations

import pytest

MODEL = """
import torch.nn as nn

def build():
    layers = []
    for _ in range(20):
        layer = nn.Linear(64, 64)
        nn.init.normal_(layer.weight, std=1.0)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)


def test_every_guilty_layer_is_marked_and_the_exit_code_is_0(gradlint, model):
    done = gradlint("show", "model.py:build")
    assert done.code == 0, done.err
    marked = [line for line in done.out.splitlines() if "◀" in line and "GL101" in line]
    assert len(marked) == 20
    assert all("model.py:8" in line for line in marked), "where the weights were drawn"
    assert "\x1b" not in done.out
    assert max(map(len, done.out.splitlines())) <= 100


def test_it_is_as_wide_as_it_is_told(gradlint, model, monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    wide = max(map(len, gradlint("show", "model.py:build").out.splitlines()))
    assert 60 < wide <= 72


def test_colours_where_they_are_asked_for(gradlint, model, monkeypatch):
    assert "\x1b[" in gradlint("show", "model.py:build", "--color", "always").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in gradlint("show", "model.py:build").out


def test_rows_can_be_fewer(gradlint, model):
    lines = gradlint("show", "model.py:build", "--rows", "6").out.splitlines()
    assert len([line for line in lines if "│" in line]) <= 6


def test_what_cannot_be_analysed_exits_2(gradlint, model):
    done = gradlint("show", "model.py:gone")
    assert done.code == 2
    assert "model.py:gone" in done.out + done.err
