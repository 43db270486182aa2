"""What is given is sent as what it is, or refused before anything is sent."""

import os
from io import BytesIO, StringIO

import numpy as np
import pytest

from tta_server.client import change_stream, import_state, infer, label_images, predict

IMAGES = np.zeros((1, 3, 2, 2), np.float32)
CONTENT = b"a\nb\nc"


@pytest.mark.parametrize("given", [bytearray(CONTENT), memoryview(CONTENT), BytesIO(CONTENT)])
def test_whatever_holds_bytes_is_one_file(given):
    assert predict(given).files == [("image", ("image-1", CONTENT))]


def test_an_open_file_is_one_file_with_its_name(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(CONTENT)
    with path.open("rb") as one, path.open("rb") as other:
        assert predict(one).files == [("image", ("a.png", CONTENT))]
        assert predict([other, path]).files == [("image", ("a.png", CONTENT))] * 2


def test_a_file_whose_name_is_no_text_is_sent_all_the_same(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(CONTENT)

    assert predict(path).files == [("image", ("caf?.png", CONTENT))]


@pytest.mark.parametrize(
    ("given", "said"),
    [(StringIO("a"), "mode 'rb'"), ([1, 2], "got int"), (IMAGES, "got ndarray"), ([[CONTENT]], "got list")],
)
def test_what_is_no_file_is_refused(given, said):
    with pytest.raises(TypeError, match=said):
        predict(given)


def test_a_state_is_taken_as_bytes_or_as_an_open_file():
    for given in (CONTENT, bytearray(CONTENT), BytesIO(CONTENT)):
        assert import_state("gate-7", given).content == CONTENT
    with pytest.raises(TypeError, match="got str"):
        import_state("gate-7", "a.safetensors")


def test_an_array_of_which_parts_are_masked_is_refused_and_one_without_is_sent():
    masked = np.ma.masked_array(IMAGES, mask=IMAGES == 0)

    with pytest.raises(ValueError, match="masked"):
        infer("tiny", masked)
    assert infer("tiny", np.ma.masked_array(IMAGES)).content == infer("tiny", IMAGES).content


@pytest.mark.parametrize("kind", [np.complex64, np.int64, np.bool_, object, "U1"])
def test_an_array_of_another_kind_is_refused(kind):
    with pytest.raises(TypeError, match="expected uint8, or floats"):
        infer("tiny", IMAGES.astype(kind))


def test_numbers_of_numpy_are_numbers():
    labels = label_images([{"id": "a", "label": np.int64(3), "image": np.uint8(1)}, {"id": "b", "label": "cat"}])

    sent = labels.arguments()["json"]

    assert sent == {"labels": [{"id": "a", "label": 3, "image": 1}, {"id": "b", "label": "cat"}]}
    assert type(sent["labels"][0]["label"]) is int
    adapter = change_stream("gate-7", adapter={"name": "tent", "settings": {"lr": np.float64(0.5)}})
    assert type(adapter.arguments()["json"]["adapter"]["settings"]["lr"]) is float
