"""What `tta-server inspect` says of a model, and that every command is told in the same words which model is meant."""

import argparse
import re
from pathlib import Path

import pytest
import torch
import yaml

from tests.models import odd
from tta_server import inspect_command
from tta_server.calibrate import calibrate_command
from tta_server.cli import main
from tta_server.evaluate import evaluate_command
from tta_server.models.onnx_export import graphs
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
        ("Random", "auto", "runtime torch: there is no bundle, which may have ONNX graphs"),
    ],
)
def test_what_would_answer_is_said_and_why_not_onnx(capsys, config, architecture, runtime, said, monkeypatch):
    monkeypatch.setattr("tta_server.models.answering.graphs_apart", graphs)  # of which `test_onnx_apart.py` tells

    found = inspected(capsys, f"tests.models.odd:{architecture}", "--config", config, "--runtime", runtime)

    assert said in found


def test_a_runtime_that_cannot_be_had_is_an_error_after_all_that_was_found(capsys, config):
    random = "tests.models.odd:Random", "--config", config, "--runtime", "onnx"

    assert main(["inspect", *random]) == 2

    said = capsys.readouterr()
    assert "adapters" in said.out
    assert "runtime not onnx" in " ".join(said.out.split())
    assert said.err.startswith("tta-server: model.runtime is 'onnx': network 'Random'")
    assert said.err.count("\n") == 1


def test_whether_a_bundle_is_there_is_said_and_which_file_would_hold_it(capsys, config, tmp_path):
    weights = tmp_path / "w.pth"
    torch.save(odd.drawn(odd.Plain).state_dict(), weights)
    plain = "tests.models.odd:Plain", "--config", config

    assert re.search(r"bundle of \d+ source images runtime", inspected(capsys))
    assert "bundle none; make one with 'tta-server calibrate' no style: inputs cannot" in inspected(capsys, *plain)
    eata = tmp_path / "eata.yaml"
    eata.write_text("adapter: {name: eata}\n")
    assert "no fisher: adapter 'eata' cannot" in inspected(capsys, "tests.models.odd:Plain", "--config", str(eata))
    found = inspected(capsys, *plain, "--weights", str(weights)).replace(" ", "")
    assert f"bundlenone;makeonewith'tta-servercalibrate',as{tmp_path / 'w.reference.safetensors'}nostyle:" in found


def test_a_network_that_cannot_be_served_is_one_line(capsys, config):
    assert main(["inspect", "tests.models.odd:OneLogit", "--config", config]) == 2

    error = capsys.readouterr().err
    assert error.startswith("tta-server: network 'OneLogit' cannot be served: it makes one number for each image")
    assert error.count("\n") == 1


class Remembers(odd.Plain):
    """Keeps a tensor from one forward to the next, which under vmap is none outside."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x - self.mean)
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3)).view(3, 1, 1)
        return logits


def test_what_one_forward_leaves_in_a_network_is_not_there_for_the_next_adapter(capsys, config):
    said = inspected(capsys, "tests.tta_server.test_inspect_command:Remembers", "--config", config)

    assert "attributes mean: written in forward, and as frozen in each" in said
    assert "adapters bn, cotta, lame, roid, rotta, sar, source, tent, vida" in said


def test_every_command_takes_the_same_options_of_the_model(capsys, config, tmp_path, monkeypatch):
    weights, labels = tmp_path / "w.pth", tmp_path / "labels.txt"
    torch.save(odd.drawn(odd.Plain).state_dict(), weights)
    labels.write_text("a\nb\nc\nd\n", encoding="utf-8")
    typed = ["--config", config, "--weights", str(weights), "--labels", str(labels), "--head", "fc", "--device", "cpu"]
    typed += ["--classes", "4", "--reference", "bundle.safetensors", "--sha256", "00", "--arguments", "{depth: 10}"]
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
    assert (sections[0].head, sections[0].classes, sections[0].arguments) == ("fc", 4, {"depth": 10})


def test_a_factory_is_handed_what_file_environment_and_command_line_say(capsys, tmp_path, monkeypatch):
    code = """
from torch import nn

def network(depth, width, num_classes):
    layers = [nn.Conv2d(3, width, 1), *(nn.BatchNorm2d(width) for _ in range(depth)), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, num_classes))
"""
    (tmp_path / "deep.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTA_MODEL__ARGUMENTS", '{"depth": 3, "width": 5}')
    model = SHAPE["model"] | {"architecture": "deep:network", "classes": 4, "arguments": {"width": 6, "depth": 6}}
    (tmp_path / "deep.yaml").write_text(yaml.safe_dump({"model": model}), encoding="utf-8")

    said = inspected(capsys, "--config", "deep.yaml", "--arguments", "{depth: 2}")

    assert "head 5, Linear of 5 features" in said
    assert "norm layers 2 BatchNorm" in said
    assert main(["inspect", "glyphs", "--config", "deep.yaml"]) == 2
    assert "model.arguments are for a function of your own" in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["depth", "[1]", "{1: 2}", "{depth: [}"])
def test_arguments_that_are_no_mapping_are_refused_in_one_line(typed, capsys):
    with pytest.raises(SystemExit):
        main(["inspect", "my:network", "--arguments", typed])

    assert f"'{typed}' is no mapping; write '{{name: value, name: value}}'" in capsys.readouterr().err
