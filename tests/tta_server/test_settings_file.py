"""Files that say less, or something else, than they seem to: refused in one line, or taken as they are meant."""

import os
from pathlib import Path

import pytest

from tta_server.settings_file import load_settings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("TTA_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "config.yaml"


def complaint(file: Path, text: str) -> str:
    """Return the one line that is said of a file."""
    file.write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        load_settings(file)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engine: {max_rows: 32}\nserver: {port: 1}\nengine: {max_rows: 8}\n", "has 'engine' twice, in lines 1 and 3"),
        ("engine:\n  max_rows: 32\n  max_rows: 8\n", "has 'max_rows' twice, in lines 2 and 3"),
        ("streams: {named: {a: {mode: off}, 'a': {mode: after}}}\n", "has 'a' twice, in lines 1 and 1"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_its_lines(file, text, said):
    assert said in complaint(file, text)


def test_what_is_merged_into_a_mapping_may_be_said_otherwise_there(file):
    file.write_text(
        "streams:\n  named:\n    a: &a {mode: 'off'}\n    b: &b {<<: *a, mode: after}\n    c: {<<: *b, mode: shadow}\n"
    )

    named = load_settings(file).streams.named

    assert [named[name].mode for name in "abc"] == ["off", "after", "shadow"]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("engine", "max_rows", "yes"),
        ("storage", "save_every_s", "on"),
        ("limits", "max_connections", "true"),
        ("engine", "window_min_rows", "no"),
    ],
)
def test_yes_and_no_are_no_numbers(file, section, key, value):
    said = complaint(file, f"{section}: {{{key}: {value}}}")

    assert (
        said == f"{section}.{key}: expected a number, got {value in ('yes', 'on', 'true')}: yes, on and true are none"
    )


def test_yes_and_no_are_no_numbers_to_an_adapter_either(file):
    said = complaint(file, "adapter: {name: tent, settings: {lr: yes}}")

    assert said.endswith("lr: expected a number, got True")


def test_yes_and_no_are_yes_and_no(file):
    file.write_text("storage: {keep_inputs: yes}\nguard: {enabled: off}\n")

    loaded = load_settings(file)

    assert (loaded.storage.keep_inputs, loaded.guard.enabled) == (True, False)


@pytest.mark.parametrize("text", ["engine: " + "[" * 5000 + "]" * 5000, "{a: " * 5000 + "}" * 5000])
def test_a_file_that_is_nested_too_deep_is_refused(file, text):
    assert complaint(file, text) == f"configuration file '{file}' cannot be read: it is nested too deep"


@pytest.mark.parametrize(("value", "got"), [("", "nothing"), ("null", "nothing"), ("[1]", "[1]"), ("3", "3")])
def test_a_section_that_is_no_mapping_is_said_to_be_none(file, value, got):
    assert complaint(file, f"engine: {value}\n") == f"engine: expected a mapping, got {got}"
