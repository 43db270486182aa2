"""Calibrating and evaluating read folders alike: the same files, in the same order, the same ones refused."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.tta_server.evaluate.small import LABELS, SIDE, folder, model
from tta_server.calibrate import source_data
from tta_server.calibrate.folder import list_folder
from tta_server.evaluate.datasets import CLEAN
from tta_server.evaluate.published import open_dataset

LITTER = ("__pycache__", ".git", "__MACOSX", ".ipynb_checkpoints")
NOT_IMAGES = ("._0.png", ".DS_Store", "Thumbs.db", "notes.txt", ".hidden.jpg")

PLACES = st.tuples(
    st.sampled_from(LABELS), st.sampled_from(["", "b/", "a/c/"]), st.sampled_from(["2", "10", "B", "ü"]), st.booleans()
)


def calibrating(root, skip_broken=False):
    """Return the images, labels and remarks that calibration goes by."""
    data = source_data.read(str(root), model(), 10**6, 0, lambda *_: None, skip_broken)
    return data.images, data.labels, data.remarks


def evaluating(root, skip_broken=False):
    """Return the images, labels and remarks that evaluation goes by."""
    data = open_dataset(str(root), model(), 0, skip_broken)
    rows = np.arange(len(data.labels(CLEAN)))
    data.check({CLEAN: rows})
    return data.images(CLEAN, rows), data.labels(CLEAN), data.remarks


COMMANDS = [calibrating, evaluating]
both = pytest.mark.parametrize("reading", COMMANDS)


def litter(root: Path) -> None:
    """Leave in every folder what programs leave there."""
    for place in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in LITTER:
            (place / name).mkdir()
            Image.new("RGB", (SIDE, SIDE)).save(place / name / "0.png")
        for name in NOT_IMAGES:
            (place / name).write_bytes(b"not an image")


@given(places=st.sets(PLACES, min_size=1, max_size=12), littered=st.booleans())
@settings(deadline=None, max_examples=30)
def test_both_commands_see_the_same_images_with_the_same_labels_in_the_same_order(places, littered):
    with tempfile.TemporaryDirectory() as name:
        root, whole = Path(name), []
        for number, (label, below, stem, broken) in enumerate(sorted(places, key=repr)):
            path = root / label / below / f"{stem}-{'broken' if broken else 'whole'}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (SIDE, SIDE), (number, 0, 0)).save(path)
            if broken:
                path.write_bytes(path.read_bytes()[:40])
            else:
                whole.append((path, LABELS.index(label), number))
        if littered:
            litter(root)
        whole.sort(key=lambda entry: (LABELS[entry[1]], entry[0]))

        if not whole:
            for reading in COMMANDS:
                with pytest.raises(ValueError, match=f"none of the {len(places)} images in .* can be read"):
                    reading(root, skip_broken=True)
            return
        one, other = calibrating(root, skip_broken=True), evaluating(root, skip_broken=True)
        listing = list_folder(root, LABELS, model().preprocess, skip_broken=True)

    assert np.array_equal(one[0], other[0])
    assert one[1].tolist() == other[1].tolist() == [label for _, label, _ in whole]
    assert one[0][:, 0, 0, 0].tolist() == [number for *_, number in whole]
    assert one[2] == other[2]
    assert listing.files == tuple(path for path, *_ in whole)
    assert len(listing.remarks) == (len(whole) < len(places))


@both
def test_all_broken_images_are_named_at_once(tmp_path, reading):
    folder(tmp_path, each=9)
    broken = sorted(path for path in tmp_path.rglob("*.png") if int(path.stem) < 6)
    for path in broken[::2]:
        path.write_bytes(b"no picture")
    for path in broken[1::2]:
        path.write_bytes(path.read_bytes()[:-30])

    message = r"24 of 36 images cannot be read; .* leave them out with --skip-broken"
    with pytest.raises(ValueError, match=message) as told:
        reading(tmp_path)

    _, *lines = str(told.value).splitlines()
    for line, path in zip(lines[:20], broken[:20], strict=True):
        assert line.startswith(f"image '{path}' cannot be read: ")
    assert (len(lines), lines[-1]) == (21, "and 4 more")
    images, labels, remarks = reading(tmp_path, skip_broken=True)
    assert (len(images), np.bincount(labels).tolist()) == (12, [3, 3, 3, 3])
    assert remarks[0].startswith("left out 24 images that cannot be read: 'ant/0.png', 'ant/1.png', ")


@both
def test_empty_class_folders_are_named_together(tmp_path, reading):
    folder(tmp_path, each=1, names=("ant", "dog"))
    for name in ("bee", "cat"):
        (tmp_path / name / "__pycache__").mkdir(parents=True)
        (tmp_path / name / "._0.png").write_bytes(b"a resource fork")

    with pytest.raises(ValueError, match=r"2 of the 4 class folders in .* hold no images: 'bee', 'cat'; .*skip-broken"):
        reading(tmp_path)

    _, labels, remarks = reading(tmp_path, skip_broken=True)
    assert labels.tolist() == [0, 3]
    assert remarks == ("left out 2 class folders without images: 'bee', 'cat'",)


@both
def test_litter_is_not_read_and_is_no_class(tmp_path, reading):
    folder(tmp_path, each=2)
    litter(tmp_path)

    _, labels, remarks = reading(tmp_path)

    assert (labels.tolist(), remarks) == ([0, 0, 1, 1, 2, 2, 3, 3], ())


@both
def test_that_folders_count_by_their_order_is_said(tmp_path, reading):
    _, labels, remarks = reading(folder(tmp_path, 1, ("n4", "n1", "n3", "n2")))

    assert labels.tolist() == [0, 1, 2, 3]
    assert remarks == ("no folder is named as a label, so they count in order: 'n1' is 'ant'",)


@both
def test_a_misspelt_folder_is_refused_with_the_labels(tmp_path, reading):
    message = r"a folder 'emu', which is none of the model's labels, and 1 more; its 4 labels start with 'ant', 'bee'"
    with pytest.raises(ValueError, match=message):
        reading(folder(tmp_path, 1, ("ant", "bee", "emu", "gnu")))


@both
def test_links_are_followed_and_a_link_back_is_no_end_of_it(tmp_path, reading):
    root = tmp_path / "data"
    folder(tmp_path / "elsewhere", each=2)
    root.mkdir()
    for name in LABELS:
        (root / name).mkdir()
        (root / name / "linked").symlink_to(tmp_path / "elsewhere" / name)
        (root / name / "back").symlink_to(root / name)

    assert reading(root)[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
