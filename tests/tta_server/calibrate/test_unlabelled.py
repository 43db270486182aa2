"""Images of any names in any folders, and bundles that are made of them."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.tta_server.evaluate.small import SIDE, model
from tests.tta_server.runtime.fakes import SHAPE, Tiny, rows, tiny
from tta_server import adapters
from tta_server.calibrate.bundle import Sizes, calibrate
from tta_server.calibrate.null import Windows
from tta_server.calibrate.source_data import SourceData, read
from tta_server.models import TorchBackbone

PLACES = st.sets(
    st.tuples(
        st.sampled_from(["", "camera 1", "2024/05/01", "ü/b", "class 0"]),
        st.sampled_from(["IMG_1.png", "a b.jpg", "10.PNG", "2.bmp"]),
    ),
    min_size=1,
)
SMALL = Sizes(canary_rows=20, windows=Windows((16, 32, 64), draws=50, forward_images=80))
ALWAYS = {"histogram", "confidence", "energy", "features", "classes"}


def reading(data: Path, limit: int = 1000, skip_broken: bool = False) -> SourceData:
    return read(str(data), model(), limit, 0, lambda *_: None, skip_broken, labelled=False)


# Reading
@given(places=PLACES, limit=st.integers(1, 30))
@settings(deadline=None, max_examples=30)
def test_every_image_counts_wherever_it_lies(places, limit):
    with tempfile.TemporaryDirectory() as name:
        for shade, place in enumerate(sorted(places)):
            path = Path(name, *place)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (SIDE, SIDE), (10 * shade,) * 3).save(path)
        Path(name, "notes.txt").write_text("no image", encoding="utf-8")

        images = reading(Path(name), limit).images

    assert len(images) == min(len(places), limit)
    assert len({image.tobytes() for image in images}) == len(images)


def test_a_packed_file_of_images_alone_is_enough(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 3, SIDE, SIDE), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images)

    assert np.array_equal(reading(tmp_path / "d.npz").images, images)
    assert len(reading(tmp_path / "d.npz", 3).images) == 3


def test_a_folder_called_glyphs_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glyphs").mkdir()
    Image.new("RGB", (SIDE, SIDE), (9, 9, 9)).save(tmp_path / "glyphs/a.png")

    assert reading(Path("glyphs")).images.tolist() == np.full((1, 3, SIDE, SIDE), 9).tolist()


def test_broken_files_are_named_or_left_out_on_request(tmp_path):
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "whole.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")

    with pytest.raises(ValueError, match=r"1 of 2 images cannot be read.*\n.*broken\.png"):
        reading(tmp_path)
    data = reading(tmp_path, skip_broken=True)

    assert len(data.images) == 1
    assert data.remarks == ("left out 1 images that cannot be read: 'broken.png'",)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.zeros(3, int)}, "should be an .npz file with 'images'"),
        ({"images": np.zeros((3, 3, 8, 8))}, "expected uint8"),
        ({"images": np.zeros((3, 3, 9, 9), np.uint8)}, "the model takes"),
    ],
)
def test_packed_data_that_do_not_fit_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)

    with pytest.raises(ValueError, match=message):
        reading(tmp_path / "d.npz")


def test_a_place_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no images, nor does a folder in it"):
        reading(tmp_path)
    with pytest.raises(ValueError, match="neither a folder nor a file"):
        reading(tmp_path / "no")


# What is made of them
@pytest.fixture(scope="module")
def both():
    """Bundles of the same images, with labels and without."""
    backbone, images = tiny(), rows(200)
    return (calibrate(backbone, images, labels, sizes=SMALL) for labels in (np.arange(200) % 4, None))


def test_labels_change_nothing_in_parts_that_need_none(both):
    labelled, plain = both

    assert labelled.parts - plain.parts == {"memory", "canary", "atc"}
    assert plain.about["left_out"] == dict.fromkeys(("canary", "memory", "atc", "vida"), "needs labels")
    assert "accuracy" not in plain.about
    for name, tensor in plain.tensors.items():
        assert tensor.numpy().tobytes() == labelled.tensors[name].numpy().tobytes()
    without = {name.partition("/")[2] for name in labelled.tensors.keys() - plain.tensors.keys()}
    assert {name for name in without if "_" in name} == {
        f"{s}_accuracy_{n}" for s in ("atc", "doc", "estimated") for n in (16, 32, 64)
    }


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (10, ALWAYS),
        (16, ALWAYS | {"null", "null_moments"}),
        (31, ALWAYS | {"null", "null_moments"}),
        (32, ALWAYS | {"null", "null_moments", "style", "statistics"}),
        (64, ALWAYS | {"null", "null_moments", "style", "statistics", "fisher"}),
    ],
)
def test_each_part_has_a_minimum_of_its_own(count, parts):
    found = calibrate(tiny(), rows(count), None, sizes=SMALL)

    assert found.parts == parts
    unlabelled = {*ALWAYS, "null", "null_moments", "style", "statistics", "fisher"}
    assert found.about["left_out"].keys() == unlabelled - parts | {"canary", "memory", "atc", "vida"}
    assert all("needs" in reason for reason in found.about["left_out"].values())


@given(counts=st.tuples(*[st.integers(0, 12)] * 4).filter(lambda counts: sum(counts) >= 10))
@settings(deadline=None, max_examples=20)
def test_any_labelled_images_give_a_bundle_that_says_what_it_lacks(counts):
    labels = np.repeat(np.arange(4), counts)

    found = calibrate(tiny(), rows(len(labels)), labels, sizes=SMALL, methods=[])

    assert found.parts >= ALWAYS | {"atc"}
    left_out = found.about.get("left_out", {})
    assert found.parts.isdisjoint(left_out)
    assert found.parts | left_out.keys() >= {"canary", "memory", "style", "null"}
    assert ("memory" in found.parts) <= (min(counts) > 0)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_images_of_which_nothing_can_be_made_are_refused_with_every_reason(count):
    with pytest.raises(ValueError, match=rf"nothing can be made of {count} images: .*'style' needs at least 32 images"):
        calibrate(tiny(), rows(count), None, sizes=SMALL)


def test_copies_are_not_counted():
    labels = np.arange(40) % 4

    found = calibrate(tiny(), np.tile(rows(40), (5, 1, 1, 1)), np.tile(labels, 5), sizes=SMALL)

    alone = calibrate(tiny(), rows(40), labels, sizes=SMALL)
    assert found.about == {**alone.about, "copies": 160}
    assert {name: tensor.tolist() for name, tensor in found.tensors.items()} == {
        name: tensor.tolist() for name, tensor in alone.tensors.items()
    }


def test_a_few_images_are_few_however_often_they_are_copied():
    found = calibrate(tiny(), np.tile(rows(10), (20, 1, 1, 1)), None, sizes=SMALL)

    assert found.about["left_out"]["style"] == "needs at least 32 images, got 10"
    with pytest.raises(ValueError, match=r"nothing can be made of 1 images \(39 more are copies\): "):
        calibrate(tiny(), np.zeros((40, 3, 8, 8), np.uint8), None, sizes=SMALL)


def test_images_that_all_look_alike_leave_out_what_must_vary():
    blind = Tiny()
    for parameter in blind.parameters():
        parameter.data.zero_()

    found = calibrate(TorchBackbone(blind, SHAPE), rows(40), None, sizes=SMALL)

    assert {"features", "null", "style"} <= found.about["left_out"].keys()
    assert found.parts >= {"histogram", "confidence", "energy"}


# Windows
@given(count=st.integers(16, 300))
@settings(deadline=None, max_examples=20)
def test_no_window_is_larger_than_the_set(count):
    planned = Windows().planned(count, tiny())

    assert max(map(int, planned)) <= count
    assert {size for size in Windows().sizes if size <= count} == set(map(int, planned))


def test_a_window_that_takes_too_much_memory_is_not_run_through_the_network():
    image = 3 * 8 * 8 * 4
    windows = Windows((16, 32, 64), forward_images=100, most_bytes=32 * image)

    assert windows.planned(64, tiny()) == {"16": 10, "32": 10, "64": 0}


def test_scores_of_normalisation_layers_can_be_left_out():
    found = calibrate(tiny(), rows(40), None, sizes=Sizes(windows=Windows(draws=20, forward_images=0)))

    assert found.parts >= {"null"}
    assert not any(name.startswith("norm_") for name in found.part("null"))


# What adapters make
@pytest.mark.parametrize("adapter", [one for one in adapters.registered() if one.part], ids=lambda one: one.name)
def test_what_is_made_without_labels_does_not_depend_on_them(adapter):
    one, other = (
        calibrate(tiny(), rows(80), labels, sizes=SMALL, methods=[adapter])
        for labels in (np.arange(80) % 4, np.arange(80) // 20)
    )
    name = adapter.part.name

    if not adapter.part.labels:
        made, again = one.part(name), other.part(name)
        assert all((made[key] == again[key]).all() for key in made)
    assert (
        name not in calibrate(tiny(), rows(80), None, sizes=SMALL, methods=[adapter]).parts or not adapter.part.labels
    )
