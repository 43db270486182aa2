"""What docs/networks.md says of networks is what is found: a few are tried again, and all by `make test-networks`."""

import pytest

from docs.write_networks import HEADING, MARK, PAGE, Tried, networks, row

LINES = PAGE.read_text(encoding="utf-8").partition(MARK)[2].strip().splitlines()
AGAIN = (
    "mobilenet_v3_small",
    "squeezenet1_1",
    "timm/test_resnet",
    "timm/test_vit",
    "Hugging Face ViT",
    "Hugging Face ConvNeXt",
    "your own: ",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try a few networks, or all if it is asked for."""
    if "tried" in metafunc.fixturenames:
        everything = metafunc.config.getoption("all_networks")
        again = [each for each in networks() if everything or each.name.startswith(AGAIN)]
        metafunc.parametrize("tried", again, ids=lambda tried: tried.name)


def test_the_page_has_a_line_for_each_network():
    assert LINES[0] == HEADING
    assert [line.split(" | ")[0].removeprefix("| ") for line in LINES[2:]] == [tried.name for tried in networks()]
    assert len(LINES) > 80


def test_a_line_is_what_is_found(tried: Tried):
    assert row(tried) in LINES
