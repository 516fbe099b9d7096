"""The page: what is in it, that it is escaped and needs nothing else, and what it does in a real browser."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import gradlint
from gradlint.findings import Coverage, DepthFacts, Hop, Location, ModuleFacts, NodeFacts, Report, TargetReport
from gradlint.report import FORMATS, View
from gradlint.report.html.laws import laws
from gradlint.report.html.waterfall import Waterfall


class Tower(nn.Module):
    """Plain linear layers whose weights are 1.5 times too large."""

    def __init__(self, depth: int = 24, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=1.5 / math.sqrt(width))
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture(scope="module")
def report():
    return gradlint.lint(Tower, ["4,64"])


def page(report, root=None):
    return FORMATS["html"](report, View(root=Path(root) if root else Path(__file__).parents[2]))


def embedded(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def huge(count, blocks=0):
    """A made-up model of so many layers, in so many blocks."""
    place = Location("model.py", 3, 1)
    names = [f"blocks.{i * blocks // count}.layer{i}" if blocks else f"layers.{i}" for i in range(count)]
    nodes = tuple(NodeFacts(f"linear_{i}", "linear", name, place, (2, 64), 1.0, 1.0) for i, name in enumerate(names))
    modules = tuple(ModuleFacts(name, "Linear", place, 1.0, 1.0) for name in names)
    groups = tuple(ModuleFacts(f"blocks.{b}", "Block", place, 1.0, 1.0) for b in range(blocks))
    path = tuple(Hop(f"linear_{i}", name, place, "weights", 0.01, 0.01 * (count - i)) for i, name in enumerate(names))
    target = TargetReport(
        "model.py:Net", place, ("x: float32[2, 64]",), "real", Coverage(count), path[0].total_log2,
        modules=(ModuleFacts("", "Net", place, 1.0, 1.0), *groups, *modules), nodes=nodes, path=path,
    )  # fmt: skip
    return Report((target,), version="1")


def test_the_same_report_is_the_same_bytes(report):
    assert page(report) == page(report)


def test_it_has_the_findings_with_their_fixes_and_lines(report):
    text = page(report)
    assert report.findings
    for finding in report.findings:
        assert finding.code in text
        assert f"test_html.py:{finding.location.line}" in text


def test_nothing_is_loaded_from_anywhere(report):
    text = page(report)
    assert re.findall(r'(?:src|href)="(?!data:,|#)[^"]*"', text) == []
    assert not re.search(r"url\(|@import|https?://(?!arxiv)", text.replace("http://www.w3.org", ""))


def test_names_are_text_and_never_markup(report):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    target = replace(report.targets[0], name=evil, assumptions=(evil,), inputs=(evil,))
    finding = replace(report.findings[0], message=evil, fix=evil, target=evil, notes=(evil,))
    failure = {"target": evil, "stage": "load", "message": evil, "where": "", "hint": evil}
    text = page(replace(report, targets=(target,), findings=(finding,), failures=(failure,)))
    assert "<script>alert" not in text
    assert "<img" not in text
    assert text.count("</script>") == 2  # its own


def test_the_waterfall_adds_up_to_the_gain(report):
    target = report.targets[0]
    bars = Waterfall.of(target.path).bars
    *causes, total = bars
    signed = sum(bar.width * (1 if bar.kind == "grows" else -1) for bar in causes)
    assert total.width == pytest.approx(abs(signed), abs=0.1)
    assert sum(hop.log2 for hop in target.path) == pytest.approx(target.gain_log2, abs=1e-6)


def test_a_tree_of_blocks_has_their_gains(report):
    (data,) = embedded(page(report))
    name, kind, _, gain, _, children = data["tree"]
    assert (name, kind, gain) == ("model", "Tower", "×1.7e4")
    assert {child[1] for child in children} == {"Linear"}
    assert {child[3] for child in children} == {"×1.5"}


def test_the_law_of_the_sliders_is_what_other_depths_and_gains_give(report):
    (law,) = laws(report.targets[0])
    assert (law.kind, law.weights, law.width) == ("plain", 1, 64)
    other = gradlint.lint(lambda: Tower(depth=10), ["4,64"]).targets[0]
    assert law.rest + 10 * law.rate == pytest.approx(other.gain_log2, abs=0.01)


def test_what_norms_and_residual_sums_do_to_a_gain():
    def kind(*causes, law="exponential"):
        path = tuple(Hop(f"n{i}", "blocks.0", None, cause, 0.1, 0.1) for i, cause in enumerate(causes))
        depth = DepthFacts("blocks.{}", 4, law, 0.1, 0.4, None)
        target = TargetReport("t", None, (), "real", Coverage(1), 0.4, path=path, depths=(depth,))
        return laws(target)[0].kind

    assert kind("weights", "activation") == "plain"
    assert kind("weights", "norm") == "normed"
    assert kind("residual") == "residual"
    assert kind("residual", law="algebraic") == "algebraic"


def test_two_hundred_layers_are_less_than_a_megabyte():
    assert len(page(huge(200)).encode()) < 2**20


def test_an_empty_report_is_a_page_as_well():
    assert "No findings in 0 models." in page(Report(version="1"))


# ---- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chrome, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chrome or not driver:
        pytest.skip("there is no Chromium with its driver here")
    options = selenium.ChromeOptions()
    options.binary_location = chrome
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1100,1400"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture
def opened(browser, report, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page(report), "utf-8")
    browser.get_log("performance")
    browser.get(file.as_uri())
    return browser


def one(browser, selector):
    return browser.find_element("css selector", selector)


def slide(browser, selector, value):
    browser.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", one(browser, selector), value
    )


def test_it_opens_without_a_word_in_the_console_and_asks_nobody(opened):
    assert opened.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith(("file:", "data:")) for url in asked)


def test_pointing_at_a_layer_tells_its_line(opened):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(opened).move_to_element(one(opened, ".plot")).perform()
    told = one(opened, ".hover").text
    assert "layers.1" in told
    assert re.search(r"test_html\.py:\d+", told)


def test_arrow_keys_walk_over_the_layers(opened):
    plot = one(opened, ".plot")
    plot.send_keys("\ue014")  # right
    first = one(opened, ".hover").text
    plot.send_keys("\ue014")
    assert one(opened, ".hover").text != first


def test_sliders_change_the_verdict(opened):
    answer = ".answer"
    assert "explodes" in one(opened, answer).text
    assert "breaks at 16 blocks" in one(opened, answer).text  # 9 bits at 0.58 a block
    slide(opened, '[name="gain"]', -29)  # 2^(-29 / 50) takes the factor of 1.5 away
    assert "stays within bounds" in one(opened, answer).text
    slide(opened, '[name="gain"]', 0)
    slide(opened, '[name="depth"]', 20)
    assert "stays within bounds" in one(opened, answer).text


def test_the_theme_can_be_switched(opened):
    before = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    one(opened, "#theme").click()
    assert opened.execute_script("return getComputedStyle(document.body).backgroundColor") != before


def test_ten_thousand_layers_are_drawn_as_few_elements(browser, tmp_path):
    file = tmp_path / "huge.html"
    file.write_text(page(huge(10_000)), "utf-8")
    browser.get(file.as_uri())
    assert browser.execute_script("return document.querySelectorAll('*').length") < 5_000
    assert "9800 more" in one(browser, ".tree").text
