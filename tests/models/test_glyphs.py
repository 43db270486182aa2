from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageFont
from safetensors.torch import load_file

from tta_server.models.glyphs import INPUT_SHAPE, LABELS, MEAN, STD, WEIGHTS, build, fonts, images, render

COUNTS = {"test": 3_000, "source": 1_000}


@pytest.fixture(scope="module")
def face():
    """The face that Pillow brings along, so that no font needs to be installed."""
    face = fonts.from_font(ImageFont.load_default(40), "pillow", "default")
    assert face is not None
    return face


@pytest.mark.parametrize("split", ["test", "source"])
def test_packed_images_have_the_promised_shapes_and_types(split):
    x, labels = images(split)

    assert x.shape == (COUNTS[split], *INPUT_SHAPE)
    assert x.dtype == np.uint8
    assert labels.shape == (COUNTS[split],)
    assert labels.dtype == np.int64


@pytest.mark.parametrize("split", ["test", "source"])
def test_every_class_is_packed_equally_often_within_one(split):
    _, labels = images(split)

    counts = np.bincount(labels, minlength=len(LABELS))

    assert len(counts) == len(LABELS)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("split", ["test", "source"])
def test_any_long_run_of_packed_images_holds_most_classes(split):
    _, labels = images(split)

    # 200 draws from 36 classes miss 0.1 of them on average; sorted labels would show 3 to 8.
    assert min(len(set(part.tolist())) for part in np.split(labels, len(labels) // 200)) >= 33


def test_no_packed_image_occurs_twice():
    packed = [image.tobytes() for split in ("test", "source") for image in images(split)[0]]

    assert len(set(packed)) == len(packed)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="expected 'test' or 'source'"):
        images("training")


def test_the_artefacts_stay_small():
    packed = sum(WEIGHTS.with_name(f"{split}.npz").stat().st_size for split in COUNTS)

    assert WEIGHTS.stat().st_size < 3e6
    assert packed < 10e6


def test_the_head_is_the_last_linear_layer_and_reads_pooled_features():
    network = build().eval()
    seen = []
    network.fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    logits = network(torch.zeros(2, *INPUT_SHAPE))

    assert [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)] == ["fc"]
    assert seen[0].shape == (2, network.fc.in_features)
    assert logits.shape == (2, len(LABELS))


def test_the_committed_weights_reach_the_clean_error_of_the_card():
    network = build().eval()
    network.load_state_dict(load_file(WEIGHTS), strict=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    x, labels = images("test")

    with torch.inference_mode():
        parts = torch.from_numpy(x).split(500)
        predicted = torch.cat([network((part / 255 - mean) / std).argmax(1) for part in parts])

    assert np.mean(predicted.numpy() != labels) <= 0.03


def test_rendering_is_the_same_for_the_same_seed(face):
    first, second = (render.dataset([face], 40, np.random.default_rng(7)) for _ in range(2))

    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_rendering_differs_for_another_seed(face):
    first, second = (render.dataset([face], 40, np.random.default_rng(seed))[0] for seed in (7, 8))

    assert not np.array_equal(first, second)


@pytest.mark.parametrize("label", range(len(LABELS)))
def test_a_rendered_character_stands_out_from_its_background(face, label):
    x = render.image(face.masks[label], np.random.default_rng(label)).astype(float)

    luminance = np.tensordot([0.299, 0.587, 0.114], x, axes=1)

    # The corners are background; somewhere the character differs from all of them by most of the least contrast.
    corners = luminance[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.abs(luminance - corners[:, None, None]).min(axis=0).max() > 0.8 * 255 * render.CONTRAST


def test_rendering_without_fonts_is_refused():
    with pytest.raises(ValueError, match="no fonts to render from"):
        render.dataset([], 1, np.random.default_rng(0))


def test_a_face_with_a_missing_character_is_rejected(monkeypatch):
    monkeypatch.setattr(fonts, "LABELS", (*LABELS[:-1], "\ue83b"))

    assert fonts.from_font(ImageFont.load_default(40), "pillow", "default") is None


def test_a_face_that_draws_two_labels_alike_is_rejected(monkeypatch):
    monkeypatch.setattr(fonts, "LABELS", (*LABELS[:-1], "A"))

    assert fonts.from_font(ImageFont.load_default(40), "pillow", "default") is None


def test_a_file_that_is_no_font_is_rejected(tmp_path: Path):
    path = tmp_path / "broken.ttf"
    path.write_bytes(b"no font")

    assert fonts.load(path, "none") is None


def test_missing_packages_are_named_with_the_command_that_installs_them():
    with pytest.raises(ValueError, match=r"1 of 1 .* apt-get install .* fonts-that-nobody-packaged"):
        fonts.find(("fonts-that-nobody-packaged",))


def test_training_and_test_fonts_share_no_related_package(face):
    packages = [f"fonts-{number}" for number in range(20)] + [*fonts.RELATED[0]]
    faces = [fonts.Face(package, "face", face.masks) for package in packages]

    for seed in range(20):
        training, test = fonts.split(faces, np.random.default_rng(seed))

        held_out = {face.package for face in test}
        assert held_out.isdisjoint(face.package for face in training)
        assert held_out >= set(fonts.RELATED[0]) or held_out.isdisjoint(fonts.RELATED[0])
        assert len(training) + len(test) == len(faces)
