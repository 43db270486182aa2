import pytest


def pytest_addoption(parser):
    parser.addoption("--examples", type=int, help="how many requests are made up for each operation")


@pytest.fixture
def examples(pytestconfig) -> int:
    """How many requests are made up for each operation: a few within 20 s, or what --examples says."""
    return pytestconfig.getoption("examples", None) or 0
