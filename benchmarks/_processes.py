"""What processes of their own cost: ratios of times that are taken one after the other, each the best of a few."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gradlint.worker.pool import Limits, Pool
from gradlint.worker.protocol import Job, Request

__all__ = ["HEAD", "rows"]

HEAD = ("what", "ratio or seconds", "aim")
_TIMES = 3
_FILES = 50
_RESNET = """\
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if stride > 1 else None

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.down is None else self.down(x)))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
        widths += [(128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
        self.blocks = nn.Sequential(*(Block(*width) for width in widths))
        self.head = nn.Linear(512, 1000)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
"""
_BY_HAND = """\
import torch
from resnet import ResNet

model = ResNet()
model(torch.randn(8, 3, 224, 224)).logsumexp(1).sum().backward()
for name, parameter in model.named_parameters():
    print(name, parameter.grad.norm().item())
"""
_SMALL = """\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(layer for _ in range(10) for layer in (nn.Linear(64, 64), nn.ReLU())))

    def forward(self, x):
        return self.layers(x)
"""


def rows() -> Iterator[tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "resnet.py").write_text(_RESNET)
        (folder / "by_hand.py").write_text(_BY_HAND)
        names = [f"net{number}.py" for number in range(_FILES)]
        for name in names:
            (folder / name).write_text(_SMALL)
        torch, help_ = together(folder, ["-c", "import torch"], ["-m", "gradlint", "--help"])
        yield "`gradlint --help` / `import torch`", f"{help_ / torch:.2f}", "0.15"
        hand, lint = together(folder, ["by_hand.py"], ["-m", "gradlint", "resnet.py", "--input", "8,3,224,224", "--no-cache"])
        yield "lint of a ResNet-18 / import, build, forward, backward, print norms", f"{lint / hand:.2f}", "1.3"
        again = ["-m", "gradlint", "resnet.py", "--cache-dir", "known"]
        run(folder, again)
        torch, known = together(folder, ["-c", "import torch"], again)
        yield "lint of a ResNet-18 that is known / `import torch`", f"{known / torch:.2f}", "0.35"
        one, two = together(folder, *(["-m", "gradlint", *names, "--no-cache", "-j", jobs] for jobs in ("1", "2")), times=1)
        yield f"{_FILES} files with `-j 1` / with `-j 2`", f"{one / two:.2f}", "1.7"
        yield "seconds to start a worker and have its answer", f"{answered():.3f}", "0.1"


def together(folder: Path, *commands: Sequence[str], times: int = _TIMES) -> list[float]:
    """Seconds that each command takes; they take turns."""
    best = [float("inf")] * len(commands)
    for _ in range(times):
        for number, command in enumerate(commands):
            best[number] = min(best[number], seconds(lambda command=command: run(folder, command)))
    return best


def run(folder: Path, command: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout + done.stderr)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def answered() -> float:
    """From the wish to the answer, on a server that is there: the catalogue of the rules."""
    with Pool(Path(sys.executable), os.environ, Limits()) as pool:
        job = Job("rules", Request())
        pool.run([job])
        return min(seconds(lambda: pool.run([job])) for _ in range(10))
