"""Every layout gives the images and labels that its files hold."""

import numpy as np
import pytest
from PIL import Image

from tests.tta_server.evaluate.small import LABELS, SIDE, cifar, folder, model, pixels
from tta_server.evaluate.corruptions import CORRUPTIONS, corrupt
from tta_server.evaluate.datasets import CLEAN, Condition, Embedded, ImageFolder
from tta_server.evaluate.published import CifarC, ImageNetC, open_dataset
from tta_server.models import glyphs, load

NOISE = Condition("gaussian_noise", 5)


@pytest.fixture(scope="module")
def embedded():
    return open_dataset("glyphs", load("glyphs"), seed=1)


# The embedded images
def test_the_embedded_images_are_the_test_split(embedded):
    images, labels = glyphs.images("test")

    assert isinstance(embedded, Embedded)
    assert embedded.corruptions == CORRUPTIONS
    assert np.array_equal(embedded.labels(CLEAN), labels)
    assert np.array_equal(embedded.images(CLEAN, np.array([5, 3])), images[[5, 3]])


def test_an_image_is_corrupted_alike_whatever_it_is_asked_for_with(embedded):
    alone = embedded.images(NOISE, np.array([7]))
    among = embedded.images(NOISE, np.array([2, 7, 9]))

    assert np.array_equal(alone[0], among[1])
    assert np.array_equal(alone[0], corrupt(glyphs.images("test")[0][[7]], *NOISE, 2**32 + 7)[0])
    assert not np.array_equal(among[0], embedded.images(CLEAN, np.array([2]))[0])


def test_another_seed_corrupts_otherwise(embedded):
    other = open_dataset("glyphs", load("glyphs"), seed=2)

    assert not np.array_equal(other.images(NOISE, np.array([7])), embedded.images(NOISE, np.array([7])))
    assert other.fingerprint != embedded.fingerprint


def test_a_model_that_cannot_read_glyphs_is_refused():
    with pytest.raises(ValueError, match="does not read glyphs; give a folder"):
        open_dataset("glyphs", model(), seed=0)


# Image folders
def test_an_image_folder_is_read_through_the_models_preprocessing(tmp_path):
    data = open_dataset(str(folder(tmp_path / "data", side=20)), model(), seed=0)

    assert isinstance(data, ImageFolder)
    assert data.labels(CLEAN).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    expected = model().preprocess(Image.open(tmp_path / "data" / "bee" / "1.png"))
    assert np.array_equal(data.images(CLEAN, np.array([4]))[0], expected)
    assert np.array_equal(data.images(NOISE, np.array([4]))[0], corrupt(expected[None], *NOISE, 4)[0])


def test_folders_are_matched_by_name_and_otherwise_by_order(tmp_path):
    named = open_dataset(str(folder(tmp_path / "named", 1, ("dog", "bee"))), model(), seed=0)
    ordered = open_dataset(str(folder(tmp_path / "ordered", 1, ("n4", "n1", "n3", "n2"))), model(), seed=0)

    assert named.labels(CLEAN).tolist() == [1, 3]
    assert ordered.labels(CLEAN).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="has 3 class folders, 'n1' first, and the model has 4 classes, 'ant' first"):
        open_dataset(str(folder(tmp_path / "strange", 1, ("n1", "n2", "n3"))), model(), seed=0)


def test_one_misspelt_folder_does_not_relabel_all_of_them(tmp_path):
    with pytest.raises(ValueError, match="has a folder 'emu', which is none of the model's labels"):
        open_dataset(str(folder(tmp_path / "misspelt", 1, ("ant", "bee", "cat", "emu"))), model(), seed=0)


def test_a_grey_model_gets_grey_images_that_were_corrupted_in_colour(tmp_path):
    data = ImageFolder(folder(tmp_path / "data"), model(channels=1), seed=0)

    assert data.images(CLEAN, np.arange(2)).shape == (2, 1, SIDE, SIDE)
    assert data.images(NOISE, np.arange(2)).shape == (2, 1, SIDE, SIDE)
    expected = model(channels=1).preprocess(Image.open(tmp_path / "data" / "ant" / "0.png"))
    assert np.array_equal(data.images(CLEAN, np.arange(1))[0], expected)


@pytest.mark.parametrize("layout", ["folder", "cifar", "imagenet"])
def test_other_images_under_the_same_names_are_other_data(tmp_path, layout):
    """What was kept of the former would be taken for theirs."""
    make, changed = {
        "folder": (lambda: folder(tmp_path), "bee/1.png"),
        "cifar": (lambda: cifar(tmp_path), "fog.npy"),
        "imagenet": (lambda: folder(tmp_path / "fog" / "1"), "fog/1/bee/1.png"),
    }[layout]
    make()
    before = open_dataset(str(tmp_path), model(), seed=0).fingerprint
    assert open_dataset(str(tmp_path), model(), seed=0).fingerprint == before
    content = (tmp_path / changed).read_bytes()

    (tmp_path / changed).write_bytes(content)

    assert open_dataset(str(tmp_path), model(), seed=0).fingerprint != before


def test_a_damaged_image_is_named(tmp_path):
    data = open_dataset(str(folder(tmp_path)), model(), seed=0)
    (tmp_path / "ant" / "1.png").write_bytes(b"not a picture")

    with pytest.raises(ValueError, match=r"image '.*1\.png' cannot be read"):
        data.images(CLEAN, np.array([1]))


# CIFAR-10-C
def test_the_cifar_layout_is_read_by_severity(tmp_path):
    data = open_dataset(str(cifar(tmp_path)), model(), seed=0)

    assert isinstance(data, CifarC)
    assert data.corruptions == ("gaussian_noise", "fog")
    assert data.has_clean
    stored = np.load(tmp_path / "fog.npy")
    for severity in (1, 3, 5):
        images = data.images(Condition("fog", severity), np.array([11, 0]))
        start = 12 * (severity - 1)
        assert np.array_equal(images, stored[[start + 11, start]].transpose(0, 3, 1, 2))
        assert data.labels(Condition("fog", severity)).tolist() == [0, 1, 2, 3] * 3
    clean = np.load(tmp_path / "clean.npy")
    assert np.array_equal(data.images(CLEAN, np.array([2]))[0], clean[2].transpose(2, 0, 1))


def test_labels_of_one_severity_count_for_all_and_clean_images_are_optional(tmp_path):
    cifar(tmp_path, clean=False)
    np.save(tmp_path / "labels.npy", np.arange(12, dtype=np.uint8) % 4)

    data = open_dataset(str(tmp_path), model(), seed=0)

    assert not data.has_clean
    assert data.labels(Condition("fog", 4)).tolist() == [0, 1, 2, 3] * 3


def test_images_of_another_size_go_through_the_models_preprocessing(tmp_path):
    cifar(tmp_path)
    large = pixels(60, 5, side=16)
    np.save(tmp_path / "fog.npy", large)

    images = open_dataset(str(tmp_path), model(), seed=0).images(Condition("fog", 1), np.array([3]))

    assert np.array_equal(images[0], model().preprocess(Image.fromarray(large[3])))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("fog", np.zeros((58, 8, 8, 3), np.uint8), r"have \[58, 60\] images, expected one multiple of 5"),
        ("fog", np.zeros((60, 8, 8, 3), np.float32), "expected uint8"),
        ("fog", np.zeros((60, 3, 8, 8), np.uint8), r"expected uint8 \(N, H, W, 3\)"),
        ("labels", np.zeros(59, np.int64), "expected 60 integers"),
        ("labels", np.full(60, 4), "labels 4 to 4, and the model has classes 0 to 3"),
        ("labels", np.zeros(60), "expected 60 integers"),
        ("labels", np.array([{}] * 60), "cannot be read as a numpy array"),  # a pickle
        ("clean", np.zeros((3, 8, 8, 3), np.uint8), "fewer than the 12 images"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, name, content, message):
    cifar(tmp_path)
    np.save(tmp_path / f"{name}.npy", content)

    with pytest.raises(ValueError, match=message):
        open_dataset(str(tmp_path), model(), seed=0)


# ImageNet-C
@pytest.mark.parametrize("group", ["", "blur"])
def test_the_imagenet_layout_is_read_with_and_without_its_archives_folders(tmp_path, group):
    root = tmp_path / group / "zoom_blur"
    folder(root / "3", each=2, suffix=".JPEG")
    folder(root / "5", each=1, suffix=".JPEG")

    data = open_dataset(str(tmp_path), model(), seed=0)

    assert isinstance(data, ImageNetC)
    assert (data.corruptions, data.has_clean) == (("zoom_blur",), False)
    assert data.labels(Condition("zoom_blur", 3)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    expected = np.asarray(Image.open(root / "3" / LABELS[1] / "1.JPEG")).transpose(2, 0, 1)
    assert np.array_equal(data.images(Condition("zoom_blur", 3), np.array([3]))[0], expected)
    with pytest.raises(ValueError, match="no 'zoom_blur' at severity 4"):
        data.labels(Condition("zoom_blur", 4))


def test_imagenet_c_may_have_clean_images_beside(tmp_path):
    folder(tmp_path / "noise" / "gaussian_noise" / "5", each=1)
    folder(tmp_path / "clean", each=1)

    data = open_dataset(str(tmp_path), model(), seed=0)

    assert isinstance(data, ImageNetC)
    assert data.has_clean
    assert data.images(CLEAN, np.arange(4)).shape == (4, 3, SIDE, SIDE)


# None of them
def test_an_unknown_layout_is_refused_with_what_was_looked_for(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")

    with pytest.raises(ValueError, match=r"looked for 'labels.npy'.*CIFAR-10-C.*ImageNet-C.*image folder"):
        open_dataset(str(tmp_path), model(), seed=0)
    with pytest.raises(ValueError, match="does not exist; use 'glyphs'"):
        open_dataset(str(tmp_path / "nowhere"), model(), seed=0)
    np.save(tmp_path / "labels.npy", np.zeros(10))
    with pytest.raises(ValueError, match=r"no '<corruption>.npy'"):
        open_dataset(str(tmp_path), model(), seed=0)
