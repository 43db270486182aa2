import sys

import pytest

from tta_server.models.importing import import_object


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which the process was started, with modules of its own."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shed.py").write_text("rake = 'a rake'\n", encoding="utf-8")
    (tmp_path / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "garbled.py").write_text("def (\n", encoding="utf-8")
    (tmp_path / "json.py").write_text("rake = 'not the library'\n", encoding="utf-8")
    return tmp_path


def test_the_folder_of_the_start_is_searched(folder):
    assert import_object("shed:rake", "tool") == "a rake"


def test_what_is_installed_comes_first(folder):
    with pytest.raises(ValueError, match="tool 'json:rake' cannot be imported"):
        import_object("json:rake", "tool")


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("shed:spade", "AttributeError"),
        ("house:rake", "No module named 'house'"),
        ("broken:rake", "ZeroDivisionError"),
        ("garbled:rake", "SyntaxError"),
        ("shed", "AttributeError"),
        (":rake", "ValueError"),
        ("", "ValueError"),
    ],
)
def test_what_cannot_be_imported_is_refused_by_name(folder, reference, why):
    with pytest.raises(ValueError, match=f"tool '{reference}' cannot be imported: .*{why}"):
        import_object(reference, "tool")
