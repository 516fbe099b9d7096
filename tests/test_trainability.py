"""The benchmark of trainability: its data are what its code makes, and its criteria are those it states."""

import json
import math

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")  # of the dev extra

from benchmarks.trainability import fit, labels, scores, training
from benchmarks.trainability.configurations import FAMILIES, Configuration, draw
from benchmarks.trainability.networks import build, outputs_of
from benchmarks.trainability.predictions import Prediction, predict, spec
from benchmarks.trainability.tasks import BATCH, Task, task_of
from gradlint.trace import parse_input

ROWS = labels.read()


def test_every_label_belongs_to_the_configuration_of_its_seed():
    assert len(ROWS) == len({row["configuration"]["seed"] for row in ROWS}) > 200
    for row in ROWS:
        assert Configuration(**row["configuration"]) == draw(row["configuration"]["seed"])
        assert set(row["outcomes"]) == set(training.OPTIMISERS)


def test_the_space_holds_every_family_in_both_halves():
    for half in ("fit", "test"):
        assert {row["configuration"]["family"] for row in ROWS if draw(row["configuration"]["seed"]).half == half} == set(
            FAMILIES
        )


@pytest.mark.parametrize("seed", [5, 6, 8])
def test_a_label_is_what_training_gives(seed):
    """Two that all train and one that explodes; far from any threshold, so that another processor agrees."""
    (row,) = [row for row in ROWS if row["configuration"]["seed"] == seed]
    torch.set_flush_denormal(True)
    try:
        again = training.label(draw(seed))
    finally:
        torch.set_flush_denormal(False)
    assert {k: v["label"] for k, v in again["outcomes"].items()} == {k: v["label"] for k, v in row["outcomes"].items()}
    assert again["checks"]["gain"] == pytest.approx(row["checks"]["gain"], abs=0.01)


def seed_of(family, task):
    return next(seed for seed in range(2000) if (draw(seed).family, draw(seed).task) == (family, task) and not draw(seed).costly)


@pytest.mark.parametrize(
    ("family", "task"),
    [(f, "digits") for f in FAMILIES]
    + [("mlp", "regression")]
    + [(f, "sequence") for f in ("rnn", "lstm", "gru", "transformer")],
)
def test_networks_take_their_task(family, task):
    c = draw(seed_of(family, task))
    x = task_of(c).x[:BATCH]
    assert parse_input(spec(c)).shape == tuple(x.shape)
    assert build(c)(x).shape == (BATCH, outputs_of(c))


def run(losses):
    """The outcome of a run whose losses are these."""
    losses = iter(losses)
    weight = torch.nn.Linear(1, 1)
    task = Task(torch.zeros(64, 1), torch.zeros(64), 1.0)
    stub = type("Stub", (), {"x": task.x, "y": task.y, "constant": 1.0})()
    stub.loss = lambda output, _: output.sum() * 0 + next(losses)
    return training.train(weight, stub, training.OPTIMISERS["sgd"], 0)


def test_criteria_are_those_stated():
    assert run([1.0] * 50 + [0.4] * 20).label == "trained"
    assert run([1.0] * 50 + [0.4] * 15 + [1.0] * 300).label == "stuck"  # the mean of 20 stays above half
    assert run([1.0, 1.0, math.nan]).label == "diverged"
    assert run([1.0] * 10 + [11.0] + [1.0] * 300).label == "diverged"
    assert run([50.0] + [40.0] * 400).label == "stuck"  # it was as bad at first
    assert run([1.0] * 400).steps == training.LOOK
    assert run([1.0] * 60 + [0.9] * 400).steps == training.STEPS


def test_area_under_the_curve():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    answers, values = rng.random(200) < 0.3, rng.integers(0, 20, 200).astype(float)
    assert scores.auc(answers, values) == pytest.approx(roc_auc_score(answers, values))
    assert math.isnan(scores.auc(np.ones(3, dtype=bool), values[:3]))


def case(seed, trained, gain):
    outcomes = {name: {"label": "trained" if i < trained else "stuck"} for i, name in enumerate(training.OPTIMISERS)}
    row = {"configuration": draw(seed).to_dict(), "outcomes": outcomes}
    return scores.Case(row, Prediction(seed, gain, -1.0, 0.0, 0.0, 0.0, None))


def test_limits_lie_between_what_trains_and_what_does_not():
    sound = [case(s, 3, gain) for s, gain in enumerate((-6.0, -2.0, 0.0, 2.0, 5.0))]
    failed = [case(s, 0, gain) for s, gain in enumerate((-30.0, -16.0, 15.0, 40.0))]
    limits = fit.fit(sound + failed)
    assert 9.0 <= limits["explode"][0] <= 15.0
    assert -16.0 <= limits["vanish"][0] <= -10.5
    for warning, error in limits.values():
        assert abs(error) >= abs(warning)
    lucky = fit.fit([*sound, case(9, 3, 18.0), *failed])
    assert lucky["explode"][1] >= 19.0  # no error where all three train


def test_an_explosion_is_predicted_as_one():
    found = predict(draw(8), judged=True)
    assert found.gain > 20
    assert found.findings["GL101"] == "error"
    assert predict(draw(5), judged=True).findings == {}


def test_the_file_is_one_object_a_line():
    for line in labels.FILE.read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) == {"configuration", "checks", "outcomes"}
