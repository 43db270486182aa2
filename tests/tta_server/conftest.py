"""Closes what the tests of the runtime open."""

from collections.abc import Iterator

import pytest

from tests.tta_server.runtime import fakes


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the storage of every worker that the test made."""
    yield
    fakes.close()
