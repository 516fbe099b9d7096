"""What a training script says, by its syntax alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradlint.errors import UsageError
from gradlint.recipe import Recipe, read_recipe


@pytest.fixture
def read(tmp_path: Path):
    def reading(text: str) -> Recipe:
        path = tmp_path / "train.py"
        path.write_text(text)
        return read_recipe(path)

    return reading


def test_a_loop_by_hand(read) -> None:
    recipe = read(
        "import torch\nLR = 1e-3\nopt = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.1)\n"
        "for x in data:\n    net(x).sum().backward()\n"
        "    torch.nn.utils.clip_grad_norm_(net.parameters(), 2 * 0.5)\n    opt.step()\n"
    )
    (optimizer,) = recipe.optimizers
    assert (optimizer.name, optimizer.lr.value, optimizer.weight_decay.value) == ("AdamW", 1e-3, 0.1)
    assert optimizer.location.line == 3
    assert [(c.kind, c.threshold.value, c.location.line) for c in recipe.clips] == [("norm", 1.0, 6)]
    assert [s.line for s in recipe.steps] == [7]
    assert recipe.precisions == ()
    assert recipe.trains


@pytest.mark.parametrize(
    ("line", "clips"),
    [
        ("from torch.nn.utils import clip_grad_norm_ as clip\nclip(ps, max_norm=args.clip)", [("norm", None)]),
        ("p.add_argument('--clip', default=0.25)\nclip_grad_norm_(ps, args.clip)", [("norm", 0.25)]),
        ("clip_grad_value_(ps, 5)", [("value", 5.0)]),
        ("accelerator.clip_grad_norm_(ps, 1.0)", [("norm", 1.0)]),
        ("fabric.clip_gradients(net, opt, clip_val=0.5)", [("value", 0.5)]),
        ("p.grad.data.clamp_(-1, 1)", [("value", 1.0)]),
        ("x.clamp_(-1, 1)", []),
        ("L.Trainer(max_epochs=3, gradient_clip_val=0.5)", [("norm", 0.5)]),
        ("L.Trainer(max_epochs=3, gradient_clip_val=None)", []),
        ("L.Trainer(max_epochs=3)", []),
        ("TrainingArguments('out')", [("norm", 1.0)]),
        ("TrainingArguments('out', max_grad_norm=0.0)", []),
        ("def train(clip=0.1):\n    clip_grad_norm_(ps, clip)", [("norm", 0.1)]),
        ("c = 1\nc = 2\nclip_grad_norm_(ps, c)", [("norm", None)]),
    ],
)
def test_clips(read, line: str, clips: list[tuple[str, float | None]]) -> None:
    assert [(c.kind, None if c.threshold is None else c.threshold.value) for c in read(line).clips] == clips


@pytest.mark.parametrize(
    ("line", "precisions"),
    [
        ("torch.autocast('cuda', dtype=torch.bfloat16)", ("bf16",)),
        ("scaler = torch.amp.GradScaler()", ("fp16",)),
        ("net.half()", ("fp16",)),
        ("net.to('cuda')", ()),
        ("TrainingArguments('out', fp16=True)", ("fp16",)),
        ("TrainingArguments('out', fp16=False)", ()),
        ("Trainer(max_epochs=1, precision='16-mixed')", ("fp16",)),
        ("Trainer(max_epochs=1, precision='bf16-mixed')", ("bf16",)),
        ("Accelerator(mixed_precision='fp16')", ("fp16",)),
    ],
)
def test_precisions(read, line: str, precisions: tuple[str, ...]) -> None:
    assert read(line).precisions == precisions


@pytest.mark.parametrize(
    ("line", "trains"), [("scaler.step(optimizer)", True), ("scheduler.step()", False), ("env.step(action)", False)]
)
def test_steps(read, line: str, trains: bool) -> None:
    assert read(line).trains is trains


def test_a_script_is_not_run_and_nonsense_is_refused(read, tmp_path: Path) -> None:
    assert read("raise SystemExit(3)") == Recipe(str(tmp_path / "train.py"))
    with pytest.raises(UsageError, match="cannot be read"):
        read("def")
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path / "none.py")
