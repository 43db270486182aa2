"""From a folder or a packed file to a bundle that the server finds."""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from tests.tta_server.runtime import fakes
from tta_server import adapters
from tta_server.app import build, load_model, with_answers
from tta_server.calibrate import calibrate_command
from tta_server.models import Reference
from tta_server.settings_file import load_settings
from tta_server.start import start_facts, start_table

CONFIG = {
    "model": {
        "architecture": "tests.tta_server.runtime.fakes:Tiny",
        "preprocess": {"size": [8, 8]},
        "labels": [f"class {label}" for label in range(4)],
        "device": "cpu",
    }
}


@pytest.fixture
def options(tmp_path: Path):
    """A function from arguments to parsed options for a tiny network of four classes."""
    torch.save(fakes.Tiny().state_dict(), tmp_path / "tiny.pth")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    parser = argparse.ArgumentParser()
    calibrate_command.add_arguments(parser)
    fixed = ["--config", str(tmp_path / "model.yaml"), "--weights", str(tmp_path / "tiny.pth")]
    fixed += ["--forward-images", "1", "--without-vida"]
    return lambda *arguments: parser.parse_args([*fixed, *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder a class, 65 images each."""
    for index, image in enumerate(fakes.rows(260)):
        path = tmp_path / "data" / f"class {index // 65}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return tmp_path / "data"


def test_a_folder_and_a_packed_file_of_the_same_images_give_one_bundle(options, folder, tmp_path, capsys):
    np.savez(tmp_path / "d.npz", images=fakes.rows(260), labels=np.arange(4).repeat(65))

    for name, data in (("one", folder), ("two", tmp_path / "d.npz")):
        assert calibrate_command.run(options("--data", data, "--out", tmp_path / f"{name}.safetensors")) == 0

    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    printed = capsys.readouterr().out
    assert "260 source images, source accuracy" in printed
    assert all(part in printed for part in ("fisher", "memory", "canary", "null_moments"))


def test_the_bundle_goes_next_to_the_weights_and_is_found_there(options, folder, tmp_path):
    calibrate_command.run(options("--data", folder))
    calibrate_command.run(options("--data", folder))  # an older bundle is in nobody's way

    model = load_model(load_settings(tmp_path / "model.yaml", {"model": {"weights": tmp_path / "tiny.pth"}}).model)

    assert (tmp_path / "tiny.reference.safetensors").is_file()
    assert model.reference is not None
    assert model.reference.about["model"] == "Tiny"


def test_a_bundle_of_older_weights_is_replaced(options, folder, tmp_path):
    calibrate_command.run(options("--data", folder))
    torch.save(fakes.Tiny().state_dict(), tmp_path / "tiny.pth")
    section = load_settings(tmp_path / "model.yaml", {"model": {"weights": tmp_path / "tiny.pth"}}).model
    with pytest.raises(ValueError, match="was made with weights"):
        load_model(section)

    calibrate_command.run(options("--data", folder))

    assert load_model(section).reference is not None


def test_of_more_images_than_the_limit_each_class_keeps_its_share(options, folder, tmp_path, capsys):
    assert calibrate_command.run(options("--data", folder, "--limit", 50)) == 0

    printed = capsys.readouterr().out
    assert "48 source images" in printed
    assert "no fisher (needs at least 64 images, got 48): adapter 'eata' cannot be used as it is set" in printed


@pytest.mark.parametrize(
    ("share", "errors", "said"),
    [
        (0.5, {"1.0": 0.6, "0.5": 0.4}, "and 40% with statistics that are 50% their own: a stream's may move so far"),
        (1.0, {"1.0": 0.6}, "and no fewer with statistics of their own: a stream's stay the source's"),
    ],
)
def test_what_own_statistics_change_is_compared_with_the_networks_own_answers(
    options, folder, capsys, monkeypatch, share, errors, said
):
    about = {"images": 260, "accuracy": 0.55, "statistics": {"source_share": share, "errors": errors}}
    monkeypatch.setattr(
        calibrate_command,
        "calibrate",
        lambda backbone, *_, **__: Reference(backbone.spec.digest, {"histogram/shares": torch.ones(4) / 4}, about),
    )

    calibrate_command.run(options("--data", folder))

    assert f"60% of source images are read otherwise once they are spoilt, {said}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("classes", "accuracy", "chance"),
    [(2, 0.95, False), (2, 0.52, True), (3, 0.65, False), (3, 0.36, True), (10, 0.12, True), (1000, 0.05, False)],
)
def test_an_accuracy_is_about_chance_where_guesses_are_as_good(classes, accuracy, chance):
    assert calibrate_command.about_chance(accuracy, classes) is chance


def test_images_of_any_names_in_any_folders_are_enough_without_labels(options, folder, tmp_path, capsys):
    (folder / "class 3").rename(folder / "class 0" / "IMG 2024")

    assert calibrate_command.run(options("--unlabelled", folder)) == 0

    printed = capsys.readouterr().out
    assert "260 source images, no labels; wrote" in printed
    assert "no canary (needs labels): the guard cannot check what a stream has learnt on labelled images" in printed
    assert "no memory (needs labels): adapter 'adanpc' cannot be used as it is set" in printed
    assert "fisher" in printed.partition("no canary")[0]
    section = load_settings(tmp_path / "model.yaml", {"model": {"weights": tmp_path / "tiny.pth"}}).model
    assert load_model(section).reference.parts >= {"style", "features", "fisher", "null"}


def test_copies_are_said(options, tmp_path, capsys):
    np.savez(tmp_path / "d.npz", images=np.tile(fakes.rows(10), (20, 1, 1, 1)))

    calibrate_command.run(options("--unlabelled", tmp_path / "d.npz"))

    printed = capsys.readouterr().out
    assert "10 source images, no labels; wrote" in printed
    assert "190 more images were left out: they are copies of these" in printed
    assert "no style (needs at least 32 images, got 10)" in printed


@pytest.mark.parametrize("count", [10, 40])
def test_a_server_starts_with_what_few_images_without_labels_give_and_says_what_is_missing(options, tmp_path, count):
    np.savez(tmp_path / "d.npz", images=fakes.rows(count))
    calibrate_command.run(options("--unlabelled", tmp_path / "d.npz"))

    service = build(load_settings(tmp_path / "model.yaml", {"model": {"weights": tmp_path / "tiny.pth"}}))

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(start_table(start_facts(service, "http://here")))
    shown = console.export_text()
    assert f"of {count} source images" in shown
    assert "no canary (needs labels): the guard cannot check what a stream has learnt on labelled images" in shown
    assert ("no style (needs at least 32 images, got 10)" in shown) == (count < 32)


def test_what_stands_in_brackets_is_shown_when_a_server_starts():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(start_table({"runtime": "torch: install tta-server[onnx]"}))

    assert "install tta-server[onnx]" in console.export_text()


def test_a_server_without_a_bundle_says_what_that_costs(options):
    service = build(load_settings(options("--data", "x").config))

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(start_table(start_facts(service, "http://here")))
    shown = console.export_text()
    assert "none; make one with 'tta-server calibrate'" in shown
    assert "no canary: the guard cannot check" in shown
    assert "no histogram, features, confidence, energy: the guard cannot tell where a stream is worse" in shown


def test_either_labelled_images_are_given_or_unlabelled_ones(options, folder, capsys):
    for arguments in ([], ["--data", folder, "--unlabelled", folder]):
        with pytest.raises(SystemExit):
            options(*arguments)
    assert "--unlabelled" in capsys.readouterr().err


def test_a_folder_that_is_no_class_of_the_model_is_refused(options, folder, tmp_path):
    (folder / "class 3").rename(folder / "tench")

    with pytest.raises(ValueError, match=r"folder 'tench', which is none of the model's labels.*start with 'class 0'"):
        calibrate_command.run(options("--data", folder, "--out", tmp_path / "r.safetensors"))


def test_images_without_class_folders_are_refused(options, tmp_path):
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flat" / "a.png")

    with pytest.raises(ValueError, match="labelled images are needed: one folder for each class"):
        calibrate_command.run(options("--data", tmp_path / "flat", "--out", tmp_path / "r.safetensors"))


def test_a_damaged_image_is_named(options, folder, tmp_path):
    (folder / "class 3" / "200.png").write_bytes(b"no picture")

    with pytest.raises(ValueError, match=r"image '.*200\.png' cannot be read"):
        calibrate_command.run(options("--data", folder, "--out", tmp_path / "r.safetensors"))


def test_what_cannot_be_read_is_left_out_on_request_and_counted(options, folder, tmp_path, capsys):
    for name in ("201", "202"):
        (folder / "class 3" / f"{name}.png").write_bytes(b"no picture")

    assert calibrate_command.run(options("--data", folder, "--skip-broken")) == 0

    printed = capsys.readouterr().out
    assert "left out 2 images that cannot be read: 'class 3/201.png', 'class 3/202.png'" in printed
    assert "258 source images" in printed


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((3, 3, 8, 8), np.uint8)}, "calibration needs both"),
        ({"images": np.zeros((3, 3, 8, 8)), "labels": np.zeros(3, int)}, "expected uint8"),
        ({"images": np.zeros((3, 3, 8, 8), np.uint8), "labels": np.zeros(4, int)}, r"expected integers \(3,\)"),
        ({"images": np.zeros((3, 3, 8, 8), np.uint8), "labels": np.full(3, 4)}, "indices of 4 classes"),
        ({"images": np.zeros((3, 3, 9, 9), np.uint8), "labels": np.zeros(3, int)}, r"the model takes \(3, 8, 8\)"),
    ],
)
def test_packed_data_that_do_not_fit_are_refused(options, tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)

    with pytest.raises(ValueError, match=message):
        calibrate_command.run(options("--data", tmp_path / "d.npz", "--out", tmp_path / "r.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "glyphs"], "embedded images show 36 characters, but the model has 4 other labels"),
        (["--data", "nowhere"], "neither a folder nor a file"),
        (["--unlabelled", "nowhere"], "neither a folder nor a file"),
        (["--data", ""], "neither a folder nor a file"),
        (["--unlabelled", ""], "neither a folder nor a file"),
        (["--data", "nowhere", "--batch", "0"], "must be at least 1"),
        (["--data", "nowhere", "--forward-images", "-1"], "--forward-images and --seed at least 0"),
        (["--data", __file__], "is no packed data"),
    ],
)
def test_wrong_arguments_are_refused(options, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        calibrate_command.run(options(*arguments, "--out", tmp_path / "r.safetensors"))


def test_where_the_bundle_goes_is_known_before_the_work(options, tmp_path):
    without = options("--data", "glyphs")
    without.weights = None

    with pytest.raises(ValueError, match="no weights file to put the bundle next to; give --out"):
        calibrate_command.run(without)
    with pytest.raises(ValueError, match="does not exist"):
        calibrate_command.run(options("--data", "glyphs", "--out", tmp_path / "no" / "r.safetensors"))


# The server, and adapters that cannot start without a bundle
NEEDS = {name: adapters.create(name).requires for name in adapters.names()}
BUNDLED = {name: needs for name, needs in NEEDS.items() if any(need.startswith("reference.") for need in needs)}


@pytest.mark.parametrize("name", BUNDLED)
def test_the_server_starts_adapters_from_the_bundle(name):
    service = build(load_settings(overrides={"adapter": {"name": name}, "model": {"device": "cpu"}}))

    assert service.served.model.reference is not None


@pytest.mark.parametrize(
    ("name", "part"),
    [(name, need.removeprefix("reference.")) for name, needs in BUNDLED.items() for need in needs if "." in need],
)
def test_the_server_refuses_to_start_without_the_part_and_names_the_command(options, name, part):
    settings = load_settings(options("--data", "x").config, {"adapter": {"name": name}})

    with pytest.raises(ValueError, match=rf"needs reference\.{part}, .* 'tta-server calibrate"):
        build(settings)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ((), "onnx the network for ONNX Runtime (model.runtime)"),
        (("--without-onnx",), ""),
        (("--skip-broken",), "no onnx (ONNX needs onnxruntime; install tta-server[onnx]"),
    ],
)
def test_the_bundle_has_the_networks_graphs_unless_that_is_unwanted_or_impossible(
    wish, said, options, folder, tmp_path, capsys, monkeypatch
):
    if said.startswith("no"):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)

    calibrate_command.run(options("--data", folder, *wish))

    printed = " ".join(capsys.readouterr().out.split())
    assert said in printed
    assert ("onnx" in printed) == bool(said)
    model = load_settings(tmp_path / "model.yaml", {"model": {"weights": str(tmp_path / "tiny.pth")}}).model
    monkeypatch.undo()
    answers = with_answers(load_model(model), model).answers
    why = {
        "--without-onnx": "torch: the bundle has no ONNX graphs ('tta-server",
        "--skip-broken": "torch: the bundle has no ONNX graphs (ONNX",
    }
    assert answers.remark.startswith(why[wish[0]] if wish else "onnx: ONNX Runtime")
