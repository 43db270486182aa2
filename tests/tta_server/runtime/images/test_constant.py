"""Images of one colour are found, and no others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tta_server.errors import ConstantImage
from tta_server.runtime.images.constant import refuse_constant
from tta_server.streams.window import is_constant

NAMES = ["the first", "the second", "the third"]


def refused(images: np.ndarray) -> bool:
    try:
        refuse_constant([is_constant(image) for image in images], NAMES)
    except ConstantImage:
        return True
    return False


@given(
    arrays(np.uint8, (3, 3, 3, 4), elements=st.integers(0, 1)) | arrays(np.float32, (3, 2, 2, 2), elements=st.just(0.5))
)
def test_a_request_is_refused_exactly_if_each_channel_of_an_image_has_one_value(images):
    expected = any(all(len(np.unique(channel)) == 1 for channel in image) for image in images)

    assert refused(images) == expected


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_error_names_the_image(place):
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), np.uint8)
    images[place] = np.array([10, 200, 30], np.uint8)[:, None, None]

    with pytest.raises(ConstantImage, match=f"^{NAMES[place]} is of one colour"):
        refuse_constant([is_constant(image) for image in images], NAMES)


def test_one_pixel_makes_the_difference():
    images = np.zeros((1, 3, 8, 8), np.uint8)
    assert refused(images)

    images[0, 2, 7, 7] = 1

    assert not refused(images)
