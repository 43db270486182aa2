"""Who may decode how much, and how long."""

import pytest

from tests.tta_server.pictures import png
from tta_server.errors import Overloaded, TooLarge
from tta_server.models.preprocess import Preprocess
from tta_server.runtime.images.codec import Upload, open_image
from tta_server.runtime.images.decoding import Decoding, Patience, decode_all
from tta_server.settings_door import LimitsSettings


def test_pixels_have_room_until_they_are_decoded():
    decoding = Decoding(LimitsSettings(max_pixels=100, max_decoding_pixels=100))

    with decoding.room(60):
        with pytest.raises(Overloaded, match=r"limits\.max_decoding_pixels") as error, decoding.room(41):
            pass
        with decoding.room(40):
            pass
    with decoding.room(100):
        pass
    with pytest.raises(TooLarge, match="have 101 pixels together"), decoding.room(101):
        pass
    assert error.value.retry_after_s >= 1


def test_images_that_nobody_waits_for_any_more_are_not_decoded():
    opened = [open_image(Upload(f"image {place}", png(8, 8))) for place in range(3)]
    patience, decoded = Patience(60), []

    def fit(image):
        decoded.append(image)
        patience.end()
        return Preprocess((8, 8))(image)

    with pytest.raises(TooLarge, match="given up at image 1, after 1"):
        decode_all(opened, fit, patience)

    assert len(decoded) == 1
