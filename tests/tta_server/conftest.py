"""Closes what the tests of the runtime open."""

from collections.abc import Iterator

import pytest

from tests.tta_server.runtime import fakes


def pytest_addoption(parser):
    parser.addoption("--cycles", type=int, default=3, help="how often a model is unloaded and loaded while one answers")


@pytest.fixture
def cycles(pytestconfig) -> int:
    """How often a model is unloaded and loaded while another answers."""
    return pytestconfig.getoption("cycles", 3)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the storage of every worker that the test made."""
    yield
    fakes.close()
