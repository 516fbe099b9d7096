"""The callbacks, in the trainers that they are made for: judged before the first step, and nothing is changed by it."""

from __future__ import annotations

import copy
import logging
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from gradlint.config import Settings
from gradlint.errors import UsageError
from gradlint.findings import Severity
from gradlint.integrations.first_step import FirstStep, UnstableModelError

WIDTH = 16
# What the trainers and what they import say of one another is not ours to mend.
QUIET = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


class Net(nn.Module):
    """Deep enough to explode where ``std`` says so; has all the state that a judge could leave changed."""

    def __init__(self, std=None, layers=24):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=std or (2 / WIDTH) ** 0.5)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(WIDTH, 4)
        self.frozen = nn.BatchNorm1d(WIDTH).eval()

    def forward(self, x, labels=None):
        x = self.norm(self.frozen(x))
        for layer in self.layers:
            x = layer(x).relu()
        logits = self.head(self.dropout(x))
        if labels is None:
            return logits
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


EXPLODES = 3 * (2 / WIDTH) ** 0.5


def items(n=8):
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(WIDTH, generator=generator), "labels": torch.tensor(i % 4)} for i in range(n)]


def everything(model):
    """All that a judge could have changed."""
    return {
        "weights": copy.deepcopy(model.state_dict()),
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "training": [module.training for module in model.modules()],
        "hooks": [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1:3]),  # noqa: NPY002 - the one that models use
        "dtype": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_num_threads()),
    }


def same(one, other):
    if isinstance(one, torch.Tensor | np.ndarray):
        return torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


# --- the first step ---------------------------------------------------------------------------------------------------


def test_the_first_call_is_judged_with_its_arguments_and_leaves_no_trace():
    model = Net(EXPLODES)
    model(torch.randn(8, WIDTH)).sum().backward()  # gradients, and statistics of the norm
    first = FirstStep(Settings(fail_on=None))
    batch, before = torch.randn(5, WIDTH), everything(model)
    unjudged = copy.deepcopy(model)
    first.watch(model)
    torch.set_default_dtype(torch.float64)
    try:
        # What would have come of it without a judge: the same random numbers for dropout.
        expected = unjudged(batch)
        torch.set_rng_state(before["random"][0])
        got = model(batch)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got, expected)
    (report,) = first.reports
    assert [target.inputs for target in report.targets] == [("x: float32[5, 16]",)]
    assert "GL101" in {finding.code for finding in report.findings}
    model.load_state_dict(before["weights"])  # forward itself moved the statistics
    torch.set_rng_state(before["random"][0])
    assert same(before, everything(model))


def test_frozen_parts_stay_in_eval_mode_while_the_model_is_judged(monkeypatch):
    model, modes = Net(), []
    model.frozen.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    first = FirstStep(Settings(fail_on=None))
    first.watch(model)
    model(torch.randn(3, WIDTH))
    assert len(modes) > 1
    assert not any(modes)


def test_two_models_that_are_called_one_after_the_other_are_both_judged_and_each_once():
    both = nn.ModuleDict({"generator": Net(layers=2), "discriminator": Net(layers=3), "teacher": Net().requires_grad_(False)})
    first = FirstStep(Settings(fail_on=None))
    first.watch(both)
    x = torch.randn(4, WIDTH)
    with torch.no_grad():
        both["discriminator"](x)
    both["teacher"](x)
    for _ in range(2):
        both["generator"](x)
        both["discriminator"](x)
    assert len(first.reports) == 2
    assert [len([p for p in r.targets[0].parameters if p.name.startswith("layers")]) for r in first.reports] == [4, 6]
    first.close()
    assert not any(module._forward_pre_hooks for module in both.modules())


def test_a_compiled_model_is_judged_too():
    model = Net(EXPLODES, layers=20)
    compiled = torch.compile(model, backend="eager")
    first = FirstStep(Settings(fail_on=None))
    first.watch(compiled)
    compiled(torch.randn(4, WIDTH))
    assert [finding.code for report in first.reports for finding in report.findings if finding.severity is Severity.ERROR]
    assert not any(module._forward_pre_hooks for module in compiled.modules())


def test_what_cannot_be_judged_is_said_and_stops_only_who_asked_for_it(caplog):
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(4, 4), 0

        def forward(self, x):
            raise ValueError("never twice")

    for fail_on in (None, Severity.ERROR):
        first, model = FirstStep(Settings(fail_on=fail_on)), Fickle()
        first.watch(model)
        with pytest.raises(UnstableModelError if fail_on else ValueError, match="never twice"):
            model(torch.randn(2, 4))
        (report,) = first.reports
        assert report.exit_code == 2
    assert caplog.text.count("forward raised ValueError") == 1, "once logged, once raised"


# --- transformers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")

    def make(model, callback, **more):
        told = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_strategy": "no", **more}
        arguments = transformers.TrainingArguments(str(tmp_path), max_steps=2, per_device_train_batch_size=4, **told)
        return transformers.Trainer(model, arguments, train_dataset=items(), callbacks=[] if callback is None else [callback])

    return make


def trained(make, model, callback, **more):
    """The weights and losses after two steps from a fixed seed."""
    losses = []
    model.register_forward_hook(lambda module, args, out: losses.append(out["loss"].detach().clone()))
    make(model, callback, seed=3, **more).train()
    return losses[-2:], dict(model.state_dict())


@QUIET
def test_transformers_trains_the_same_with_the_callback_and_is_warned(trainer, caplog):
    from gradlint.integrations.transformers import GradlintCallback

    torch.manual_seed(0)
    model = Net(EXPLODES)
    callback = GradlintCallback()
    with caplog.at_level(logging.INFO, logger="gradlint"):
        judged = trained(trainer, copy.deepcopy(model), callback)
    assert same(judged, trained(trainer, copy.deepcopy(model), None))
    (report,) = callback.reports
    assert report.targets[0].inputs == ("x: float32[4, 16]", "labels: int64[4]")
    (record,) = [record for record in caplog.records if record.name == "gradlint"]
    assert record.levelno == logging.WARNING
    assert "exploding-path" in record.getMessage()


@QUIET
def test_transformers_stops_before_the_first_step_where_it_was_asked_to(trainer):
    from gradlint.integrations.transformers import GradlintCallback

    model = Net(EXPLODES)
    before = everything(model)
    with pytest.raises(UnstableModelError, match="GL101") as caught:
        trainer(model, GradlintCallback(fail_on="error")).train()
    assert caught.value.report.exit_code == 1
    after = everything(model)
    assert same(before["weights"], after["weights"])
    assert all(gradient is None for gradient in after["gradients"])
    trainer(Net(), GradlintCallback(fail_on="error")).train()  # a healthy one goes through


@QUIET
def test_transformers_arguments_say_how_it_is_trained(trainer):
    from gradlint.integrations.transformers import GradlintCallback

    callback = GradlintCallback()
    trainer(Net(), callback, learning_rate=2e-4, weight_decay=0.1, max_grad_norm=0.5, optim="sgd").train()
    train = callback._first.settings.train
    assert (train.optimizer, train.lr, train.weight_decay, train.clip, train.precision) == ("sgd", 2e-4, 0.1, 0.5, "fp32")
    callback = GradlintCallback(train={"optimizer": "lion"})
    trainer(Net(), callback).train()
    assert (callback._first.settings.train.optimizer, callback._first.settings.train.clip) == ("lion", None)


def test_transformers_other_processes_and_resumed_runs_are_left_alone():
    transformers = pytest.importorskip("transformers")
    from gradlint.integrations.transformers import GradlintCallback

    for state in (
        transformers.TrainerState(is_world_process_zero=False),
        transformers.TrainerState(is_world_process_zero=True, global_step=7),
    ):
        callback, model = GradlintCallback(fail_on="info"), Net(EXPLODES)
        callback.on_train_begin(transformers.TrainingArguments, state, transformers.TrainerControl(), model=model)
        assert not any(module._forward_pre_hooks for module in model.modules())
        assert callback.reports == []


# --- Lightning --------------------------------------------------------------------------------------------------------


def lightning_module(model, package):
    class Module(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model
            self.losses = []

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            loss = nn.functional.cross_entropy(self(batch["x"]), batch["labels"])
            self.losses.append(loss.detach().clone())
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=3e-4, weight_decay=0.05)

    return Module()


def fitted(model, callback, tmp_path, package, **more):
    told = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, **more}
    fit = package.Trainer(accelerator="cpu", max_steps=2, callbacks=callback and [callback], default_root_dir=tmp_path, **told)
    module = lightning_module(model, package)
    torch.manual_seed(5)
    fit.fit(module, DataLoader(items(), batch_size=4))
    return module.losses[-2:], module.state_dict()


@pytest.fixture
def lightning():
    return pytest.importorskip("lightning.pytorch")


@QUIET
def test_lightning_trains_the_same_with_the_callback_and_is_warned(lightning, tmp_path, caplog):
    from gradlint.integrations.lightning import GradlintCallback

    torch.manual_seed(0)
    model = Net(EXPLODES)
    callback = GradlintCallback()
    with caplog.at_level(logging.INFO, logger="gradlint"):
        judged = fitted(copy.deepcopy(model), callback, tmp_path, lightning, gradient_clip_val=0.7)
    assert same(judged, fitted(copy.deepcopy(model), None, tmp_path, lightning, gradient_clip_val=0.7))
    (report,) = callback.reports
    assert report.targets[0].inputs == ("x: float32[4, 16]",)
    assert ["exploding-path" in record.getMessage() for record in caplog.records if record.name == "gradlint"] == [True]
    train = callback._first.settings.train
    assert (train.optimizer, train.lr, train.weight_decay, train.clip, train.precision) == ("adamw", 3e-4, 0.05, 0.7, "fp32")


@QUIET
def test_lightning_stops_before_the_first_step_where_it_was_asked_to(lightning, tmp_path):
    from gradlint.integrations.lightning import GradlintCallback

    model = Net(EXPLODES)
    before = everything(model)
    with pytest.raises(UnstableModelError, match="GL101"):
        fitted(model, GradlintCallback(fail_on="error"), tmp_path, lightning)
    after = everything(model)
    assert same(
        [before[key] for key in ("weights", "gradients", "hooks")], [after[key] for key in ("weights", "gradients", "hooks")]
    )


@QUIET
def test_lightning_strategy_that_calls_the_step_through_forward(lightning, tmp_path):
    """As DistributedDataParallel does; here with one process."""
    from gradlint.integrations.lightning import GradlintCallback

    callback = GradlintCallback()
    fitted(Net(EXPLODES), callback, tmp_path, lightning, strategy="ddp", devices=1)
    (report,) = callback.reports
    assert report.targets[0].inputs == ("x: float32[4, 16]",), "the model's own arguments, not those of training_step"


def test_lightning_other_processes_are_left_alone(lightning):
    from types import SimpleNamespace

    from gradlint.integrations.lightning import GradlintCallback

    callback, module = GradlintCallback(), lightning_module(Net(EXPLODES), lightning)
    callback.on_train_batch_start(SimpleNamespace(global_step=0, is_global_zero=False), module, None, 0)
    assert not any(inner._forward_pre_hooks for inner in module.modules())


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["transformers", "lightning"])
def test_settings_that_make_no_sense_are_refused_when_the_callback_is_made(library):
    pytest.importorskip(library)
    callback = __import__(f"gradlint.integrations.{library}", fromlist=["GradlintCallback"]).GradlintCallback
    with pytest.raises(UsageError, match="fail_on"):
        callback(fail_on="catastrophe")
    with pytest.raises(UsageError, match="max_gian"):
        callback(max_gian=3)


@pytest.mark.parametrize(
    ("library", "hidden"), [("transformers", ["transformers"]), ("lightning", ["lightning", "pytorch_lightning"])]
)
def test_a_missing_library_is_named(library, hidden):
    code = f"import sys; sys.modules.update(dict.fromkeys({hidden})); import gradlint.integrations.{library}"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
    assert (
        f"gradlint.integrations.{library} needs {hidden[0] if library == 'transformers' else 'Lightning'}: pip install"
        in done.stderr
    )
