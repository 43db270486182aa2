"""What `tta-server inspect` says of a model, and that every command is told in the same words which model is meant."""

import argparse
from pathlib import Path

import pytest
import torch
import yaml

from tests.models import odd
from tta_server import inspect_command
from tta_server.calibrate import calibrate_command
from tta_server.cli import main
from tta_server.evaluate import evaluate_command
from tta_server.settings_file import load_settings, model_overrides

SHAPE = {"model": {"preprocess": {"size": list(odd.SHAPE[1:])}}}


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SHAPE), encoding="utf-8")
    return str(path)


def inspected(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(["inspect", *arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_embedded_model_has_nothing_off(capsys):
    said = inspected(capsys)

    assert "glyphs, 36 classes, images 3x32x32" in said
    assert "head fc, Linear of 96 features" in said
    assert "apart: requests share a forward" in said
    assert "on: streams share a forward and a step" in said
    assert "adapters adanpc, bn, cotta, eata, lame, roid, rotta, sar, source, tent, vida" in said


def test_what_is_off_is_said_with_its_reason(capsys, config):
    said = inspected(capsys, "tests.models.odd:BatchMean", "--config", config)

    assert "a row's answer depends on the other rows of its forward: every request has a forward of its own" in said
    assert "stacking off: rows are not apart" in said
    assert "not eata adapter 'eata' needs reference.fisher" in said


@pytest.mark.parametrize(
    ("architecture", "runtime", "said"),
    [
        ("Plain", "onnx", "runtime onnx: "),
        ("Plain", "torch", "runtime torch"),
        ("Random", "onnx", "runtime not onnx: network 'Random'"),
        ("Random", "auto", "runtime torch: network 'Random'"),
    ],
)
def test_what_would_answer_is_said_and_why_not_onnx(capsys, config, architecture, runtime, said):
    found = inspected(capsys, f"tests.models.odd:{architecture}", "--config", config, "--runtime", runtime)

    assert said in found


def test_a_network_that_cannot_be_served_is_one_line(capsys, config):
    assert main(["inspect", "tests.models.odd:OneLogit", "--config", config]) == 2

    error = capsys.readouterr().err
    assert error.startswith("tta-server: network 'OneLogit' cannot be served: it makes one number for each image")
    assert error.count("\n") == 1


def test_every_command_takes_the_same_options_of_the_model(capsys, config, tmp_path, monkeypatch):
    weights, labels = tmp_path / "w.pth", tmp_path / "labels.txt"
    torch.save(odd.drawn(odd.Plain).state_dict(), weights)
    labels.write_text("a\nb\nc\nd\n", encoding="utf-8")
    typed = ["--config", config, "--weights", str(weights), "--labels", str(labels), "--head", "fc", "--device", "cpu"]
    typed += ["--classes", "4", "--reference", "bundle.safetensors", "--sha256", "00"]
    name = "tests.models.odd:Plain"

    sections = []
    for add, more in (
        (inspect_command.add_arguments, [name]),
        (calibrate_command.add_arguments, ["--model", name, "--data", "x"]),
        (evaluate_command.add_arguments, ["--model", name]),
    ):
        parser = argparse.ArgumentParser()
        add(parser)
        sections.append(
            load_settings(Path(config), {"model": model_overrides(parser.parse_args([*typed, *more]))}).model
        )
    assert main(["config", "--model", name, *typed]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]

    assert sections[0] == sections[1] == sections[2]
    assert printed == sections[0].model_dump(mode="json")
    assert sections[0].labels == labels
    assert (sections[0].head, sections[0].classes) == ("fc", 4)
