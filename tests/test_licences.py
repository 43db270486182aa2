"""The project's licence is stated where tools look for it, and bundled data says where it comes from."""

import fnmatch
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tta_server.models.glyphs.packages import PACKAGES

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/licences.md").read_text()
DATA = (".safetensors", ".npz", ".png", ".jpg", ".npy", ".ttf", ".otf", ".parquet", ".onnx", ".zip")


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def test_the_licence_is_the_one_that_the_package_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    text = (ROOT / "LICENSE").read_text()

    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert "Apache License" in text
    assert text.count("END OF TERMS AND CONDITIONS") == 1


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_each_data_file_of_the_repository_is_on_the_page():
    named = re.findall(r"`([^`\s]+)`", PAGE)

    files = [name for name in tracked() if name.endswith(DATA)]

    assert files
    assert not [
        name for name in files if not any(fnmatch.fnmatch(name, place) or name.endswith("/" + place) for place in named)
    ]


def test_the_model_card_names_a_licence_for_each_font_package():
    card = (ROOT / "models/glyphs/MODEL_CARD.md").read_text()

    rows = dict(re.findall(r"^\| (fonts-\S+) \|.*\| ([^|]+) \|$", card, re.MULTILINE))

    assert rows.keys() == set(PACKAGES)
    assert all(rows.values())


def test_each_reference_output_names_the_repository_it_comes_from():
    stems = {path.stem for path in (ROOT / "tests/goldens").glob("*.safetensors")}

    table = PAGE.partition("## Reference outputs")[2]

    assert {stem for stem in stems if f"`{stem}`" not in table} == set()
