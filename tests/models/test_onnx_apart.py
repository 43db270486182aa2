"""A network exported by a process of its own is what it is when this one exports it."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.models.small import SHAPE, small
from tta_server.models import TorchBackbone
from tta_server.models.onnx_apart import graphs_apart
from tta_server.models.onnx_export import graphs

LAYERS = ("bn",)


class Noisy(nn.Module):
    """Answers differently each time, which no graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)) + torch.rand(3))


@pytest.fixture
def here(monkeypatch):
    """What was exported by this process."""
    done = []
    monkeypatch.setattr("tta_server.models.onnx_apart.graphs", lambda *given: done.append(given) or graphs(*given))
    return done


def test_the_graphs_are_the_same_to_the_bit(here):
    backbone = TorchBackbone(small(), SHAPE)

    assert graphs_apart(backbone, LAYERS) == graphs(backbone, LAYERS)
    assert here == []


def test_why_a_network_cannot_be_exported_is_said_as_ever(here):
    with pytest.raises(ValueError, match="cannot be exported to ONNX: it answers differently each time"):
        graphs_apart(TorchBackbone(Noisy(), SHAPE))

    assert here == []


def test_what_no_other_process_can_take_is_exported_here(here, monkeypatch, caplog):
    class Local(nn.Sequential):
        """Cannot be packed: nobody finds it by its name."""

    local = TorchBackbone(Local(nn.Flatten(), nn.Linear(SHAPE[0] * SHAPE[1] * SHAPE[2], 4)), SHAPE)
    caplog.set_level("INFO")

    assert graphs_apart(local) == graphs(local)
    assert len(here) == 1
    assert "is exported in this process, which keeps memory: AttributeError" in caplog.text
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert graphs_apart(TorchBackbone(small(), SHAPE)).streams
    assert len(here) == 2
    assert "the other process ended with 1" in caplog.text


def test_a_server_does_not_load_the_exporter_but_for_a_network_of_the_script_that_is_run(tmp_path):
    """Another process does not know the script's network by its name."""
    script = tmp_path / "own.py"
    script.write_text(
        "import sys\n"
        "from torch import nn\n"
        "from tta_server.models import TorchBackbone, glyphs\n"
        "from tta_server.models.answering import answering\n"
        "class Own(nn.Sequential): pass\n"
        "own = Own(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))\n"
        "for network, shape in ((glyphs.build(), glyphs.INPUT_SHAPE), (own, (3, 8, 8))):\n"
        "    chosen = answering(TorchBackbone(network, shape), 'onnx')\n"
        "    print(chosen.remark, *sorted({'onnxscript', 'sympy'} & sys.modules.keys()))\n",
        encoding="utf-8",
    )

    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout

    of_glyphs, of_own = said.splitlines()
    assert of_glyphs.startswith("onnx: ONNX Runtime")
    assert "onnxscript" not in of_glyphs
    assert "sympy" not in of_glyphs
    assert of_own.startswith("onnx: ONNX Runtime")
