"""What docs/networks.md says of networks is what is found: a few are tried again, and all by `make test-networks`."""

import pytest
import torchvision
from safetensors.torch import save_file

from docs.write_networks import HEADING, MARK, PAGE, Tried, networks, row
from tests.pages import block
from tta_server.app import load_model
from tta_server.settings_file import load_settings

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


def test_the_factory_of_the_page_is_handed_its_arguments(tmp_path, monkeypatch):
    narrow = torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=10)
    save_file(narrow.state_dict(), tmp_path / "narrow.safetensors")
    (tmp_path / "narrow.yaml").write_text(block("yaml", "width_mult"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    model = load_model(load_settings(tmp_path / "narrow.yaml").model)

    assert (model.backbone.spec.classes, model.backbone.spec.input_shape) == (10, (3, 64, 64))
    assert model.backbone.weights()["classifier.1.weight"].equal(narrow.classifier[1].weight)
