"""A stream whose requests hold two kinds of image is judged by most of them, wherever in a request they lie."""

import numpy as np
import pytest

from tests.tta_server.drift.test_monitor import drifted, worker
from tests.tta_server.runtime.fakes import ask, close
from tta_server.models import glyphs

REQUEST, REQUESTS = 16, 24


@pytest.fixture(autouse=True)
def closed():
    yield
    close()


def states(spoilt: np.ndarray) -> list[str]:
    """Return the state after each of some requests, of which the images at these places are spoilt."""
    count = REQUEST * REQUESTS
    images, noisy = glyphs.images("test")[0][-count:].copy(), drifted(count)
    images[np.tile(spoilt, REQUESTS)] = noisy[np.tile(spoilt, REQUESTS)]
    own, found = worker("after", domains=16), []
    for request in np.split(images, REQUESTS):
        ask(own, "gate", request)
        found.append(own.parts.registry.existing("gate").drift)
    return [watch.state for watch in found if watch.because in (None, "style")]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("spoilt", [4, 12, 15])
def test_most_of_the_images_decide_and_not_the_last(spoilt: int, first: bool):
    places = np.arange(REQUEST) < spoilt if first else np.arange(REQUEST) >= REQUEST - spoilt

    found = states(places)

    if spoilt < REQUEST / 2:
        assert "drift" not in found
    else:
        assert found.index("drift") < 6
        assert set(found[found.index("drift") :]) == {"drift"}
