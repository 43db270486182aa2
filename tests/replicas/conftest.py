from collections.abc import Iterator

import pytest

from tests.replicas.fleet import Fleet


def pytest_addoption(parser):
    parser.addoption("--all-replicas", action="store_true", help="three replicas and 60 streams instead of two and 12")
    parser.addoption("--requests", type=int, default=0, help="roll on until so many were answered")


@pytest.fixture
def size(pytestconfig) -> tuple[int, int, int]:
    """Replicas, streams and callers: few, or as many as `make test-replicas` asks for."""
    return (3, 60, 6) if pytestconfig.getoption("all_replicas", False) else (2, 12, 3)


@pytest.fixture
def requests(pytestconfig) -> int:
    """How many requests a rolling restart is to see at least."""
    return pytestconfig.getoption("requests", 0)


@pytest.fixture
def fleet(tmp_path, size) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, size[0])
    try:
        with fleet.balanced():
            yield fleet
    finally:
        fleet.end()
