"""Rule packs: found without registration, refused when broken."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from gradlint import packs
from gradlint.config import Settings, Target
from gradlint.errors import PackError, UsageError

RULE = """
from gradlint.rule import Rule, Severity

class {cls}(Rule):
    \"\"\"One line.\"\"\"

    code = "{code}"
    name = "{name}"
    severity = Severity.WARNING

    def check(self, context):
        return ()
"""


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """Write a package of modules, install its entry point, return its name."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)

    def make(name="acme_gradlint_rules", **modules):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(modules.pop("init", ""))
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
        entry = EntryPoint("acme", name, packs.GROUP)
        monkeypatch.setattr(packs, "entry_points", lambda group: EntryPoints([entry]))
        return name

    yield make
    for module in set(sys.modules) - known:
        if module.startswith("acme"):
            del sys.modules[module]


def rule(code="AC101", name="odd-thing", cls="OddThing"):
    return RULE.format(code=code, name=name, cls=cls)


def test_the_built_in_pack_is_loaded_once_though_it_has_an_entry_point(monkeypatch):
    entry = EntryPoint("builtin", packs.BUILT_IN, packs.GROUP)
    monkeypatch.setattr(packs, "entry_points", lambda group: EntryPoints([entry]))
    codes = [rule.code for rule in packs.load_rules().rules]
    assert "GL101" in codes
    assert codes == sorted(set(codes))


def test_an_installed_pack_comes_after_the_built_in_one(pack):
    pack(ac101_odd_thing=rule(), _shared="x = 1")
    assert packs.load_rules().rules[-1].code == "AC101"


def test_an_imported_rule_does_not_count(pack):
    pack(
        ac101_odd_thing=rule(),
        ac102_even_thing="from acme_gradlint_rules.ac101_odd_thing import OddThing\n" + rule("AC102", "even-thing", "Even"),
    )
    assert [found.code for found in packs.load_rules().rules[-2:]] == ["AC101", "AC102"]


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({}, "rule pack 'acme_gradlint_rules' has no rules"),
        ({"init": "import does_not_exist"}, "'acme_gradlint_rules' cannot be imported: No module named 'does_not_exist'"),
        ({"ac101_x": "1 / 0"}, "module 'acme_gradlint_rules.ac101_x' cannot be imported: division by zero"),
        ({"ac101_x": "x = 1"}, "acme_gradlint_rules.ac101_x must define exactly one rule, it defines: none"),
        ({"ac101_x": rule() + rule(cls="Other")}, "it defines: OddThing, Other"),
        ({"odd_thing": rule()}, "its name must start with ac101"),
        ({"ac101x": rule()}, "its name must start with ac101"),
        ({"ac101_x": rule().replace('code = "AC101"', "")}, "ac101_x.OddThing is incomplete"),
        ({"ac101_x": rule(), "ac101_y": rule(name="other")}, "AC101 is defined by acme_gradlint_rules.ac101_x and"),
        (
            {"ac101_x": rule(), "ac102_y": rule("AC102")},
            "odd-thing is defined by acme_gradlint_rules.ac101_x and acme_gradlint_rules.ac102_y",
        ),
        ({"gl101_x": rule("GL101")}, "GL101 is defined by gradlint_rules.gl101_exploding_path and acme_gradlint_rules.gl101_x"),
    ],
)
def test_a_broken_pack_is_refused_by_name(pack, modules, message):
    pack(**modules)
    with pytest.raises(PackError) as error:
        packs.load_rules()
    assert message in str(error.value)


def test_a_rule_in_preview_reports_only_where_that_is_asked_for(pack):
    pack(ac101_odd_thing=rule().replace("severity", "preview = True\n    severity", 1))
    catalogue = packs.load_rules()

    def chosen(**settings):
        current = catalogue.current(Settings(**settings))
        return "AC101" in [found.code for found in catalogue.choose(current)]

    assert not chosen()
    assert not chosen(select=("ALL",))
    assert chosen(preview=True)
    assert chosen(select=("AC101",), preview=True)
    with pytest.raises(UsageError, match="select: AC101 is in preview: --preview lets it report"):
        chosen(select=("AC101",))


def test_a_renamed_rule_is_known_by_its_old_code_and_name(pack, caplog):
    pack(ac101_odd_thing=rule().replace("severity", 'formerly = ("AC150", "strange-thing")\n    severity', 1))
    catalogue = packs.load_rules()
    assert catalogue.find("ac150").code == catalogue.find("strange-thing").code == "AC101"
    settings = Settings(select=("AC150",), ignore=("strange-thing",), per_file_ignores={"a.py": ("AC150",)})
    current = catalogue.current(settings)
    assert (current.select, current.ignore, current.per_file_ignores) == (("AC101",), ("AC101",), {"a.py": ("AC101",)})
    assert "select: AC150 is called AC101 odd-thing now" in caplog.text


@pytest.mark.parametrize("old", ["GL101", "exploding-path"])
def test_a_code_or_name_is_not_used_again(pack, old):
    pack(ac101_odd_thing=rule().replace("severity", f'formerly = ("{old}",)\n    severity', 1))
    with pytest.raises(PackError, match=f"{old} is defined by gradlint_rules"):
        packs.load_rules()


def test_a_removed_code_does_not_come_back(pack):
    pack(init="REMOVED = {'AC101': 'AC102'}", ac101_odd_thing=rule())
    with pytest.raises(PackError, match="AC101 was removed and must not come back"):
        packs.load_rules()


@pytest.mark.parametrize("table", ["per_file_ignores", "per_target_ignores", "per_module_ignores", "extend_select", "target"])
def test_an_unknown_code_is_refused_wherever_it_stands(table):
    values = {"target": (Target("a", "b", own={"ignore": ("GL99",)}),), "extend_select": ("GL99",)}
    settings = Settings(**{table: values.get(table, {"x": ("GL99",)})})
    with pytest.raises(UsageError, match="no rule is called 'GL99'"):
        packs.load_rules().current(settings)


def test_a_missing_pack_and_a_module_are_refused(pack, tmp_path, monkeypatch):
    (tmp_path / "acme_single.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PackError, match="a pack is a package"):
        packs.load_pack("acme_single")
    with pytest.raises(PackError, match="'acme_missing' cannot be imported"):
        packs.load_pack("acme_missing")


def test_a_broken_pack_stops_the_command_line(pack, gradlint):
    pack(ac101_x="1 / 0")
    done = gradlint("rules")
    assert done.code == 2
    assert done.err.startswith("gradlint: rule pack 'acme_gradlint_rules'")
