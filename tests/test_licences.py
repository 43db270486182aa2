"""The project's licence is stated where tools look for it, and bundled data says where it comes from."""

import fnmatch
import re
import tomllib

from tests.pages import ROOT, text, tracked
from tta_server.models.glyphs.packages import PACKAGES

PAGE = text("docs/licences.md")
DATA = (".safetensors", ".npz", ".png", ".jpg", ".npy", ".ttf", ".otf", ".parquet", ".onnx", ".zip")


def test_the_licence_is_the_one_that_the_package_names():
    project = tomllib.loads(text("pyproject.toml"))["project"]

    licence = text("LICENSE")

    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert "Apache License" in licence
    assert licence.count("END OF TERMS AND CONDITIONS") == 1


def test_each_data_file_of_the_repository_is_on_the_page():
    named = re.findall(r"`([^`\s]+)`", PAGE)

    files = [name for name in tracked() if name.endswith(DATA)]

    assert files
    assert not [
        name for name in files if not any(fnmatch.fnmatch(name, place) or name.endswith("/" + place) for place in named)
    ]


def test_the_model_card_names_a_licence_for_each_font_package():
    card = text("models/glyphs/MODEL_CARD.md")

    rows = dict(re.findall(r"^\| (fonts-\S+) \|.*\| ([^|]+) \|$", card, re.MULTILINE))

    assert rows.keys() == set(PACKAGES)
    assert all(rows.values())


def test_each_reference_output_names_the_repository_it_comes_from():
    stems = {path.stem for path in (ROOT / "tests/goldens").glob("*.safetensors")}

    table, described = PAGE.partition("## Reference outputs")[2], text("tests/goldens/README.md")

    assert {stem for stem in stems if f"`{stem}`" not in table or f"| {stem} |" not in described} == set()
