import pytest

from tta_server.storage.failpoints import POINTS


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, help="how often the writing process is killed at random")
    parser.addoption("--server-kills", type=int, help="how often the real server is killed at random")


@pytest.fixture
def kills(pytestconfig) -> int:
    """How often the writing process is killed: 20, or what --kills says."""
    return pytestconfig.getoption("kills", None) or 20


@pytest.fixture
def server_kills(pytestconfig) -> int:
    """How often the real server is killed: 2, or what --server-kills says."""
    return pytestconfig.getoption("server_kills", None) or 2


def pytest_generate_tests(metafunc):
    if "server_point" in metafunc.fixturenames:  # two of them, or all when the server is killed often
        often = (metafunc.config.getoption("server_kills", None) or 0) >= len(POINTS)
        metafunc.parametrize("server_point", POINTS if often else ("store.before_rename", "audit.mid_append"))
