"""A user's own adapter: from a file or an entry point, and only if a trusted place names it."""

import sys
from importlib.metadata import EntryPoint

import pytest

from tta_server import adapters
from tta_server.adapters import base
from tta_server.evaluate.variants import variants
from tta_server.settings import AdapterSettings
from tta_server.settings_file import load_settings
from tta_server.wanted import make_adapter

MINE = """
from dataclasses import dataclass
from typing import ClassVar

from tta_server.adapters import Adapter
from tta_server.adapters.bounds import Share
from tta_server.adapters.source import Source


@dataclass(frozen=True)
class Mine(Source):
    share: Share = 0.5
    name: ClassVar[str] = "mine"


@dataclass(frozen=True)
class Half(Adapter):
    name: ClassVar[str] = "half"


@dataclass(frozen=True)
class Nameless(Source):
    name: ClassVar[str] = "with space"


@dataclass(frozen=True)
class Impostor(Source):
    name: ClassVar[str] = "tent"


class Plain:
    name = "plain"


thing = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder in which the process was started, and a registry that is as it was afterwards."""
    for name in ("_REGISTRY", "_REFERENCES"):
        monkeypatch.setattr(base, name, dict(getattr(base, name)))
    monkeypatch.setattr(base, "_DISCOVERED", [True])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    return tmp_path


def offers(monkeypatch, *values):
    """Have installed packages offer adapters."""
    found = [EntryPoint(value, value, "tta_server.adapters") for value in values]
    monkeypatch.setattr(base, "entry_points", lambda group: found if group == "tta_server.adapters" else [])
    monkeypatch.setattr(base, "_DISCOVERED", [])


def test_it_is_known_by_its_name_and_by_where_it_is():
    assert adapters.enlist("mine:Mine") == "mine"
    assert adapters.enlist("mine:Mine") == "mine"  # again, as a command does that reads its configuration twice

    assert "mine" in adapters.names()
    assert adapters.create("mine", share=0.25) == adapters.create("mine:Mine", share=0.25)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mine:Other", "adapter 'mine:Other' cannot be imported"),
        ("nowhere:Mine", "adapter 'nowhere:Mine' cannot be imported: .*No module named"),
        ("mine:thing", "not a frozen dataclass that derives from"),
        ("mine:Plain", "not a frozen dataclass that derives from"),
        ("mine:Half", "adapter 'mine:Half' lacks adapt, init, predict"),
        ("mine:Nameless", "needs a name of small letters"),
        ("mine:Impostor", "adapter name 'tent' is taken by tta_server.adapters.tent; give mine another"),
    ],
)
def test_what_is_no_adapter_is_refused(reference, message):
    before = adapters.names()

    with pytest.raises(ValueError, match=message):
        adapters.enlist(reference)

    assert adapters.names() == before


def test_a_configuration_imports_it(folder):
    (folder / "config.yaml").write_text("adapter: {name: 'mine:Mine', settings: {share: 0.25}}", encoding="utf-8")

    section = load_settings(folder / "config.yaml").adapter

    assert make_adapter(section) == adapters.create("mine", share=0.25)
    assert make_adapter(AdapterSettings(name="mine")) == adapters.create("mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: 'mine:Mine', settings: {share: 2}}", "share must be in \\[0, 1\\], got 2"),
        ("{name: 'mine:Mine', settings: {rate: 2}}", "has no setting 'rate'; it has share"),
        ("{name: 'mine:Other'}", "cannot be imported"),
    ],
)
def test_a_configuration_says_what_is_wrong_with_it(folder, text, message):
    (folder / "config.yaml").write_text(f"adapter: {text}", encoding="utf-8")

    with pytest.raises(ValueError, match=message):
        load_settings(folder / "config.yaml")


def test_the_environment_imports_it(monkeypatch):
    monkeypatch.setenv("TTA_ADAPTER__NAME", "mine:Mine")

    load_settings()

    assert "mine" in adapters.names()


def test_an_evaluation_imports_it():
    rows = variants("mine:Mine", [])

    assert [row.adapter.name for row in rows] == ["source", "mine"]


@pytest.mark.parametrize("name", ["mine:Mine", "mine", "os:getcwd", ":", "mine:"])
def test_a_section_of_a_request_imports_nothing(name):
    with pytest.raises(ValueError, match=f"unknown adapter '{name}'"):
        make_adapter(AdapterSettings(name=name))

    assert "mine" not in sys.modules


def test_installed_packages_offer_theirs(monkeypatch):
    offers(monkeypatch, "mine:Mine")

    assert adapters.create("mine").name == "mine"
    assert "mine" in adapters.names()
    assert [adapter.name for adapter in adapters.registered()][-1] == "mine"


def test_a_package_that_offers_no_adapter_is_named_each_time(monkeypatch):
    offers(monkeypatch, "mine:Plain")

    for _ in range(2):
        with pytest.raises(ValueError, match="adapter 'mine:Plain' is not a frozen dataclass"):
            adapters.names()


def test_a_module_may_ask_for_adapters_while_it_is_imported(monkeypatch, folder):
    (folder / "asks.py").write_text(
        f"import tta_server.adapters\ntta_server.adapters.names()\n{MINE}", encoding="utf-8"
    )
    offers(monkeypatch, "asks:Mine")

    assert "mine" in adapters.names()
