"""Where the rules about weights, activations and numbers begin: one number is turned up until they speak, and speak louder."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradlint
from gradlint.limits import LIMITS
from gradlint.packs import BUILT_IN, load_pack
from gradlint.report.catalogue import page


class Net(nn.Module):
    """A linear layer drawn with a given mean, standard deviation and bias, and a function of its output."""

    def __init__(self, function, std, mean=0.0, bias=0.0, width=64, head=True):
        super().__init__()
        self.layer = nn.Linear(64, width)
        nn.init.normal_(self.layer.weight, mean, std)
        nn.init.constant_(self.layer.bias, bias)
        self.function = function
        self.head = nn.Linear(width, 10) if head else nn.Identity()

    def forward(self, x):
        return self.head(self.function(self.layer(x)))


def deep(activation, initialise, depth):
    def build():
        layers = [nn.Linear(64, 64) for _ in range(depth)]
        for layer in layers:
            initialise(layer.weight)
            nn.init.zeros_(layer.bias)
        return nn.Sequential(*[m for layer in layers for m in (layer, activation())], nn.Linear(64, 4))

    return build


class Tied(nn.Module):
    def __init__(self, std):
        super().__init__()
        self.embed = nn.Embedding(500, 64)
        nn.init.normal_(self.embed.weight, std=std)
        self.norm = nn.LayerNorm(64)

    def forward(self, tokens):
        return self.norm(self.embed(tokens)) @ self.embed.weight.T


class SelfAttention(nn.Module):
    def __init__(self, std, factor=1.0):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(64, 64, bias=False) for _ in range(3))
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=std)
        self.factor = factor

    def forward(self, x):
        scores = self.query(x) @ self.key(x).mT
        return torch.softmax(scores if self.factor == 1.0 else self.factor * scores, -1) @ self.value(x)


def half(std):
    return nn.Sequential(*[m for _ in range(4) for m in (drawn(nn.Linear(64, 64), std), nn.ReLU())]).half()


def drawn(layer, std):
    nn.init.normal_(layer.weight, std=std)
    return layer


def pre_norm(gain):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(64), drawn(nn.Linear(64, 64), gain / 8)

        def forward(self, x):
            return x + self.layer(self.norm(x))

    return nn.Sequential(*[Block() for _ in range(6)], nn.Linear(64, 4))


IMAGES = ["float32:8,64"]
HALF = ["float16:8,64"]
TOKENS = ["int64<500:4,16"]
SEQUENCES = ["float32:4,32,64"]
SILENT, INFO, WARNING, ERROR = None, "info", "warning", "error"

# code, a model made with a number, inputs, and what is said at which number
CASES = [
    ("GL203", lambda n: deep(nn.SELU, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"), n)(), IMAGES,
     {7: INFO, 8: WARNING}),
    ("GL203", lambda n: deep(nn.ReLU, nn.init.kaiming_normal_, n)(), IMAGES, {30: SILENT}),
    ("GL203", lambda n: deep(nn.Tanh, lambda w: nn.init.xavier_normal_(w, gain=5 / 3), n)(), IMAGES, {30: SILENT}),
    # outlier 64 |mean| over 16 std
    ("GL206", lambda mean: Net(torch.relu, 0.125, mean), IMAGES, {0.06: SILENT, 0.065: WARNING, -0.065: WARNING, 0.26: ERROR}),
    ("GL206", lambda mean: Net(nn.LayerNorm(64), 0.125, mean), IMAGES, {1.0: SILENT}),
    # a loss of 2 ln 500 at logits of variance 2 ln 500 = 12.4
    ("GL210", Tied, TOKENS, {0.02: SILENT, 0.4: SILENT, 0.48: WARNING, 1.0: WARNING}),
    ("GL211", lambda std: Net(lambda h: torch.log_softmax(h, -1), std, head=False), IMAGES,
     {0.3: SILENT, 0.36: SILENT, 0.5: WARNING}),
    ("GL212", lambda std: half(std).float(), IMAGES, {0.02: SILENT, 0.1: SILENT, 0.5: WARNING, 0.4: SILENT}),
    # units are off where the bias is four times the spread of what comes in
    ("GL304", lambda bias: Net(torch.relu, 0.125, bias=bias), IMAGES, {0.0: SILENT, -3.9: SILENT, -4.1: ERROR}),
    ("GL304", lambda bias: Net(F.leaky_relu, 0.125, bias=bias), IMAGES, {-9.0: SILENT}),
    # tanh is flat beyond 2.65: three quarters of N(0, 8.3²), 95 % of N(0, 42²)
    ("GL305", lambda std: Net(torch.tanh, std / 8), IMAGES, {1: SILENT, 8: SILENT, 8.8: WARNING, 45: ERROR}),
    ("GL305", lambda std: Net(torch.sin, std / 8), IMAGES, {45: SILENT}),
    # the slope of a square is twice its input
    ("GL306", lambda std: Net(torch.square, std / 8), IMAGES, {1: SILENT, 7.9: SILENT, 8.1: WARNING, 520: ERROR}),
    ("GL306", lambda std: Net(lambda h: h / h.square().mean(-1, keepdim=True).sqrt(), std / 8), IMAGES, {100: SILENT}),
    # scores of variance 64 std⁴ · 64², 2 ln 32 = 6.9
    ("GL310", lambda v: SelfAttention((v / 64**3) ** 0.25), SEQUENCES, {1.0: SILENT, 3.4: SILENT, 3.6: WARNING}),
    ("GL310", lambda v: SelfAttention((v / 64**3) ** 0.25, 0.125), SEQUENCES, {60.0: SILENT}),
    (
        "GL311",
        lambda v: SelfAttention((64 * v / 64**3) ** 0.25, 0.125),
        SEQUENCES,
        {8.8: SILENT, 9.4: INFO, 1000: INFO, 1050: WARNING},
    ),
    ("GL312", pre_norm, SEQUENCES, {0.5: SILENT, 2.0: INFO, 4.0: WARNING}),
    # log of a normal with a mean: Φ(−mean) of it is negative
    ("GL503", lambda bias: Net(torch.log, 0.125, bias=bias), IMAGES, {5.5: SILENT, 4.5: WARNING, 2.9: ERROR}),
    # 88.7 of exp at 512 entries: one in a hundred steps beyond 4.1 σ
    ("GL504", lambda std: Net(torch.exp, std / 8), IMAGES, {18: SILENT, 24: WARNING, 40: ERROR}),
    ("GL505", lambda bias: Net(lambda h: 1 / h, 0.125, bias=bias), IMAGES, {4.0: SILENT, 1.0: WARNING, 0.0: WARNING}),
    ("GL505", lambda bias: Net(lambda h: 1 / F.softplus(h), 0.125, bias=bias), IMAGES, {0.0: SILENT}),
    ("GL506", lambda std: Net(lambda h: torch.log(torch.softmax(h, -1)), std / 8, head=False), IMAGES,
     {1: INFO, 17: INFO, 18: WARNING}),
    # 65504 = (std · 8)⁴ · √(1/2)³ · √(2 ln 512)
    ("GL507", half, HALF, {0.177: SILENT, 1.8: SILENT, 2.1: WARNING, 3.0: ERROR}),
    ("GL508", half, HALF, {0.177: SILENT, 0.01: SILENT, 0.001: WARNING}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "make", "inputs", "number", "said"),
    [(code, make, inputs, n, said) for code, make, inputs, spoken in CASES for n, said in spoken.items()],
    ids=[f"{code}-{i}-{n}" for i, (code, *_, spoken) in enumerate(CASES) for n in spoken],
)
def test_a_rule_begins_at_its_limit(code, make, inputs, number, said):
    report = gradlint.lint(lambda: make(number), inputs, select=[code])
    assert [str(f.severity) for f in report.findings] == ([] if said is None else [said])


def test_weights_in_front_of_a_norm_may_have_any_scale():
    def build():
        layers = [drawn(nn.Linear(64, 64), 10.0) for _ in range(4)]
        return nn.Sequential(*[m for layer in layers for m in (layer, nn.LayerNorm(64), nn.Tanh())])

    codes = {f.code for f in gradlint.lint(build, IMAGES, select=["GL2", "GL3"]).findings if f.severity != "info"}
    assert codes == set()


def test_the_fix_of_unscaled_attention_is_silent():
    std = (40.0 / 64**3) ** 0.25
    (finding,) = gradlint.lint(lambda: SelfAttention(std), SEQUENCES, select=["GL310"]).findings
    assert finding.evidence["measured"] == pytest.approx(40.0, rel=0.02)
    assert finding.evidence["expected"] == pytest.approx(40.0 / 64, rel=0.02)
    assert gradlint.lint(lambda: SelfAttention(std, 1 / math.sqrt(64)), SEQUENCES, select=["GL31"]).findings == ()


def test_a_unit_that_is_on_in_one_of_its_calls_is_alive():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 64)
            nn.init.normal_(self.layer.weight, std=0.125)
            nn.init.constant_(self.layer.bias, -5.0)
            self.act = nn.ReLU()

        def step(self, x):
            return self.act(self.layer(x))

        def forward(self, x):
            return sum(self.step(f * x) for f in (1.0, self.factor))

    for factor, dead in ((1.0, 1), (4.0, 0)):
        Twice.factor = factor
        assert len(gradlint.lint(Twice, IMAGES, select=["GL304"]).findings) == dead


def test_every_limit_is_read_and_has_a_source():
    root = Path(gradlint.__file__).parents[1]
    files = [*(root / "rules").rglob("*.py"), *(root / "gradlint").rglob("*.py")]
    read = {name for file in files for name in re.findall(r'LIMITS\["(\w+)"\]', file.read_text("utf-8"))}
    assert read == set(LIMITS)
    assert all(len(limit.source) > 10 for limit in LIMITS.values())


def test_a_page_shows_the_limits_as_they_are():
    pages = {rule.code: page(rule) for rule in load_pack(BUILT_IN)}
    assert pages["GL310"].endswith(f"* unscaled: warning at {LIMITS['unscaled'].warning:g} ln n ({LIMITS['unscaled'].source})")
    assert f"* dead: warning at {LIMITS['dead'].warning:g}, error at {LIMITS['dead'].error:g} share" in pages["GL304"]
    assert "## Limits" not in pages["GL501"]


SCRIPT = """
scaler = torch.amp.GradScaler()
optimizer = torch.optim.{optimizer}
for x, y in data:
    with torch.autocast("cuda", dtype=torch.{dtype}):
        loss = model(x, y)
    scaler.scale(loss).backward()
    {clip}
    scaler.step(optimizer)
"""


def script(path, **options):
    text = SCRIPT.format(**{"optimizer": "SGD(model.parameters(), lr=0.1)", "dtype": "float16", "clip": "pass", **options})
    path.write_text("import torch\n" + text, "utf-8")
    return path


@pytest.mark.parametrize(("dtype", "said"), [("float16", ["error"]), ("bfloat16", [])])
def test_the_precision_of_a_training_script(tmp_path, dtype, said):
    file = script(tmp_path / "train.py", dtype=dtype)
    if dtype == "bfloat16":
        file.write_text(file.read_text("utf-8").replace("scaler = torch.amp.GradScaler()", ""), "utf-8")
    found = gradlint.lint(lambda: half(3.0).float(), IMAGES, select=["GL507"], training_script=file).findings
    assert [str(f.severity) for f in found] == said


def test_autocast_inside_of_forward():
    class Mixed(nn.Module):
        def __init__(self, dtype):
            super().__init__()
            self.net, self.dtype = half(3.0).float(), dtype

        def forward(self, x):
            with torch.autocast("cpu", dtype=self.dtype):
                return self.net(x)

    assert [f.code for f in gradlint.lint(lambda: Mixed(torch.float16), IMAGES, select=["GL507"]).findings] == ["GL507"]
    assert gradlint.lint(lambda: Mixed(torch.bfloat16), IMAGES, select=["GL507"]).findings == ()


GROWING = deep(nn.ReLU, lambda w: nn.init.normal_(w, std=1.4 * (2 / 64) ** 0.5), 14)
KEEPING = deep(nn.ReLU, lambda w: nn.init.normal_(w, std=(2 / 64) ** 0.5), 14)
CLIPPED = "scaler.unscale_(optimizer); torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)"


@pytest.mark.parametrize(
    ("build", "options", "said"),
    [
        (GROWING, {}, {"GL601", "GL602"}),
        (GROWING, {"clip": CLIPPED}, {"GL602"}),
        (GROWING, {"optimizer": "SGD(model.parameters(), lr=0.1, weight_decay=1e-4)"}, {"GL601"}),
        (GROWING, {"optimizer": "SGD(model.parameters(), lr=0.1, weight_decay=0.0)"}, {"GL601", "GL602"}),
        (GROWING, {"optimizer": "AdamW(model.parameters())"}, {"GL601"}),
        (GROWING, {"optimizer": "AdamW(model.parameters(), weight_decay=0)", "clip": CLIPPED}, {"GL602"}),
        (KEEPING, {}, set()),
    ],
)
def test_what_a_training_script_lacks(tmp_path, build, options, said):
    file = script(tmp_path / "train.py", **options)
    assert {f.code for f in gradlint.lint(build, IMAGES, select=["GL6"], training_script=file).findings} == said


def test_without_a_training_script_nothing_is_said_about_one():
    assert gradlint.lint(GROWING, IMAGES, select=["GL6"]).findings == ()
