"""From what was typed to rows of the table."""

import importlib
import sys
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server import adapters
from tta_server.evaluate import variants as module
from tta_server.evaluate.variants import Variant, variants


def labels(*arguments) -> list[str]:
    return [row.label for row in variants(*arguments)]


def test_the_frozen_model_comes_first_and_once():
    assert labels("tent,bn", []) == ["source", "tent", "bn"]
    assert labels("bn, source,bn", []) == ["source", "bn"]
    assert labels("", []) == ["source"]
    assert set(labels("all", [])) == set(adapters.names())


def test_each_setting_is_a_row_and_reaches_the_adapter():
    rows = variants("bn,tent", ["tent:lr=0.005,stats=batch", "tent:lr=1e-3,betas=[0.8,0.9]", "tent:"])

    assert [row.label for row in rows[2:]] == ["tent lr=0.005,stats=batch", "tent lr=1e-3,betas=[0.8,0.9]", "tent"]
    assert rows[2].adapter == adapters.create("tent", lr=0.005, stats="batch")
    assert rows[3].adapter == adapters.create("tent", lr=1e-3, betas=(0.8, 0.9))
    assert rows[4].adapter == adapters.create("tent")


def test_settings_bring_their_adapter_along():
    assert labels("bn", ["tent:lr=0.1"]) == ["source", "bn", "tent lr=0.1"]


def test_what_was_asked_for_by_name_keeps_its_row_beside_the_ones_with_settings():
    assert labels("tent,bn", ["tent:lr=0.1", "tent:lr=0.2"]) == ["source", "tent", "tent lr=0.1", "tent lr=0.2", "bn"]
    assert set(labels("all", ["tent:lr=0.1"])) == {*adapters.names(), "tent lr=0.1"}


@given(
    st.lists(st.sampled_from(["tent", "bn", "source", "lame"])),
    st.lists(st.sampled_from(["tent:lr=0.1", "tent:", "tent", "sar:lr=0.1", "bn:"])),
)
def test_nothing_that_was_typed_is_dropped(names, given_settings):
    asked = {*names, *(text.replace(":", " ").strip() for text in given_settings)}

    assert set(labels(",".join(names), given_settings)) == {"source", *asked}


def test_a_users_own_adapter_may_have_settings():
    assert module._split("house.methods:Mine:lr=0.1,path=a:b") == ("house.methods:Mine", "lr=0.1,path=a:b")
    assert module._split("house.methods:Mine:") == ("house.methods:Mine", "")


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        ("tant", [], "unknown adapter 'tant'"),
        ("", ["tent:speed=3"], "no setting 'speed'"),
        ("", ["tent:lr"], "are not understood; write 'tent:lr=0.005,stats=batch'"),
        ("", ["tent:lr={"], "are not understood"),
        ("", ["tent:lr=-1"], "lr"),
        ("", ["tent:lr=fast"], "expected a number"),
    ],
)
def test_what_is_wrong_is_refused(names, settings, message):
    with pytest.raises(ValueError, match=message):
        variants(names, settings)


def test_the_key_follows_settings_and_code(monkeypatch):
    one, other = variants("", ["tent:lr=0.1", "tent:lr=0.2"])[1:]
    key = one.key()

    assert key == Variant("another label", adapters.create("tent", lr=0.1)).key()
    assert key != other.key()
    monkeypatch.setattr(module, "_code", lambda: "changed")
    assert key != one.key()


def test_the_key_does_not_depend_on_where_a_function_lies_in_memory():
    @dataclass(frozen=True)
    class Draws:
        draw: object
        name = "draws"

    assert Variant("a", Draws(lambda: 1)).key() == Variant("a", Draws(lambda: 2)).key()


def test_the_key_follows_the_file_of_a_users_adapter(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for length in (1, 22):
        code = "import dataclasses\n\n@dataclasses.dataclass\nclass Mine:\n    name = 'mine'\n"
        (tmp_path / "mine.py").write_text(code + "\n" * length)
        keys.append(Variant("mine", importlib.import_module("mine").Mine()).key())
    monkeypatch.delitem(sys.modules, "mine")

    assert keys[0] != keys[1]
