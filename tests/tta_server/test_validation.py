"""What is said of a wrong value: one line for each setting, in words of who wrote it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from tta_server.settings_file import load_settings
from tta_server.validation import explain, fill

QUOTES = "put every name in quotes, such as 'yes', 'no' or '7'"
NAMES = "model.labels: expected a list of names, or a text file with one a line, got"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{labels: [yes, no]}", f"model.labels: these are no text: True, False; {QUOTES}"),
        ("{labels: [0, 1, 2, 3]}", f"model.labels: these are no text: 0, 1, 2, ...; {QUOTES}"),
        ("{labels: [cat, null]}", f"model.labels: these are no text: None; {QUOTES}"),
        ("{labels: {cat: 1}}", f"{NAMES} {{'cat': 1}}"),
        ("{labels: 3}", f"{NAMES} 3"),
        ("{weights: 3}", "model.weights: expected a path, got 3"),
        ("{arguments: 3}", "model.arguments: expected a mapping, got 3"),
        ("{name: 3}", "model.name: Input should be a valid string, got 3; put it in quotes"),
        ("{preprocess: {size: 32}}", "model.preprocess: size: expected a list of 2 integers, got 32"),
        ("{preprocess: {size: [32]}}", "model.preprocess: size: expected a list of 2 integers, got [32]"),
        ("{preprocess: {size: [8, 8, 3]}}", "model.preprocess: size: expected a list of 2 integers, got [8, 8, 3]"),
        ("{preprocess: {size: [a, b]}}", "model.preprocess: size: expected a list of 2 integers, got ['a', 'b']"),
        ("{preprocess: {size: [8, 8], mean: 0.5}}", "model.preprocess: mean: expected a list of numbers, got 0.5"),
        (
            "{preprocess: {size: [8, 8], std: [a, b]}}",
            "model.preprocess: std: expected a list of numbers, got ['a', 'b']",
        ),
        (
            "{preprocess: {size: [8, 8], resize: [9]}}",
            "model.preprocess: resize: expected an integer or a list of 2 integers, got [9]",
        ),
        (
            "{preprocess: {size: [8, 8], channels: three}}",
            "model.preprocess: channels: expected an integer, got 'three'",
        ),
        (
            "{preprocess: {size: [8, 8], sixteen_bit: 11}}",
            "model.preprocess: sixteen_bit: Input should be 'full', 12, 10 or 'auto', got 11",
        ),
        ("{preprocess: {resize: 8}}", "model.preprocess: size: Field required"),
    ],
)
def test_a_wrong_setting_of_a_model_is_told_in_one_line(text, said, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"model: {text}")

    with pytest.raises(ValueError, match=r".") as refused:
        load_settings(path)

    assert str(refused.value) == said


def test_labels_may_come_twice_as_those_of_imagenet_do(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: {labels: [crane, maillot, crane]}")

    assert load_settings(path).model.labels == ["crane", "maillot", "crane"]


@dataclass
class Settings:
    """Of every kind that has words."""

    rows: list[int]
    ratio: float | Literal["auto", "none"] = 1.0
    path: Path | int = 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"rows": 1, "ratio": "x"},
            "it: rows: expected a list of integers, got 1\nit: ratio: expected a number or auto, none",
        ),
        (
            {"rows": [1], "path": [2]},
            "it: path: expected a path, got [2]\nit: path.int: Input should be a valid integer",
        ),
        ({"rows": [1], "depth": 2}, "it has no setting 'depth'; it has rows, ratio, path"),
    ],
)
def test_each_field_is_told_of_once_where_there_are_words_for_it(values, said):
    with pytest.raises(ValueError, match=r".") as refused:
        fill(Settings, values, "it")

    assert str(refused.value).startswith(said)


def test_text_that_is_no_number_in_quotes_gets_no_advice_of_quotes():
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(dict[str, str]).validate_python({"name": ["a"]})

    assert explain(refused.value.errors()[0]) == "name: Input should be a valid string, got ['a']"
