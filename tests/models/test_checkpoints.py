"""Weights in the shapes in which training scripts save them: each becomes the network that it was."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tta_server.models.weights import load_weights, read_weights

State = dict[str, Tensor]


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def trained(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    module = network()
    for tensor in module.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) * 9)
    return module


def named(front: str, seed: int = 1) -> State:
    return {f"{front}{name}": tensor for name, tensor in trained(seed).state_dict().items()}


def optimizer() -> dict:
    module = trained()
    steps = torch.optim.Adam(module.parameters())
    module(torch.rand(2, 3, 2, 2)).sum().backward()
    steps.step()
    return steps.state_dict()


OTHER = 2
SHAPES: dict[str, Callable[[], object]] = {
    "plain": lambda: named(""),
    "compiled": lambda: named("_orig_mod."),
    "data parallel": lambda: nn.DataParallel(trained()).state_dict(),
    "compiled in data parallel": lambda: named("module._orig_mod."),
    "data parallel in compiled": lambda: named("_orig_mod.module."),
    "a compiled layer": lambda: {k.replace("1.", "1._orig_mod.", 1): v for k, v in named("").items()},
    "averaged by torch": lambda: AveragedModel(trained()).state_dict(),
    "lightning with a loss": lambda: {
        "state_dict": named("model.") | {"criterion.weight": torch.ones(2)},
        "hyper_parameters": {"lr": 1e-3},
        "epoch": 3,
    },
    "lightning with averaged weights": lambda: {"state_dict": named("model.", OTHER) | named("ema_model.module.")},
    "net": lambda: {"net": named(""), "acc": 91.2, "epoch": 7},
    "a name of one's own": lambda: {"classifier": named("module."), "epoch": 7},
    "with an optimizer": lambda: {"model": named("module."), "optimizer": optimizer(), "epoch": 7},
    "model_ema": lambda: {"model": named("", OTHER), "model_ema": named("module."), "optimizer": optimizer()},
    "state_dict_ema": lambda: {"epoch": 1, "state_dict": named("", OTHER), "state_dict_ema": named("")},
    "deep": lambda: {"checkpoint": {"model_state_dict": named("module.")}},
    "with numbers of numpy": lambda: {
        "state_dict": named("module."),
        "best": np.float64(0.9),
        "epoch": np.int64(3),
        "done": np.bool_(True),
        "kind": np.dtype("float32"),
    },
    "with extra state": lambda: named("") | {"0._extra_state": None},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_of_every_shape_becomes_the_network_that_it_was(shape, tmp_path):
    torch.save(SHAPES[shape](), tmp_path / "w.pth")
    module = network()

    load_weights(module, read_weights(tmp_path / "w.pth"), "w.pth")

    for name, tensor in trained().state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor) or name.endswith("num_batches_tracked"), name


def test_safetensors_are_unwrapped_too(tmp_path):
    save_file(named("module._orig_mod."), tmp_path / "w.safetensors")
    module = network()

    load_weights(module, read_weights(tmp_path / "w.safetensors"), "w")

    assert torch.equal(module[3].weight, trained()[3].weight)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("model_ema", "'model_ema' is served, as averaged over training"),
        ("state_dict_ema", "'state_dict_ema' is served"),
        ("lightning with averaged weights", "those under 'ema_model.module.' are served, as averaged over training"),
        ("lightning with a loss", "1 tensors beside the network are left out ('criterion.weight' first)"),
        ("averaged by torch", ""),
        ("net", ""),
    ],
)
def test_what_is_chosen_or_left_out_is_said(shape, said, tmp_path, caplog):
    torch.save(SHAPES[shape](), tmp_path / "w.pth")

    load_weights(network(), read_weights(tmp_path / "w.pth"), "w.pth")

    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


def test_which_of_two_networks_is_meant_is_not_guessed(tmp_path):
    torch.save({"generator": named(""), "critic": named("")}, tmp_path / "w.pth")

    with pytest.raises(ValueError, match="holds several state dicts, 'generator', 'critic'; save the state_dict"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"hold several networks that fit, under 'student\.', 'teacher\.'"):
        load_weights(network(), named("student.") | named("teacher."), "w.pth")


def test_of_numpys_numbers_nothing_runs_and_weights_in_its_arrays_are_named(tmp_path):
    class Hostile:
        def __reduce__(self) -> tuple:
            return np.dtype, ("V8", False, True), (3, "|", None, None, None, 1 << 40, 1, 0xFF)

    torch.save({"model": named(""), "best": Hostile()}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").keys() == named("").keys()
    torch.save({"model": {name: tensor.numpy() for name, tensor in named("").items()}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"it holds 'numpy\..*_reconstruct', which could run code"):
        read_weights(tmp_path / "w.pth")


def test_what_could_run_code_is_named(tmp_path):
    torch.save({"model": named(""), "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")

    with pytest.raises(ValueError, match=r"it holds 'argparse\.Namespace', which could run code"):
        read_weights(tmp_path / "w.pth")


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.rand(1, 2),)), path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "save", "kind"),
    [
        ("w.pt", lambda path: torch.jit.script(nn.Linear(2, 2)).save(path), "a TorchScript archive"),
        ("w.pt2", exported, "an exported program"),
        ("w.onnx", lambda path: path.write_bytes(b"onnx"), "an ONNX file"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_that_kind(name, save, kind, tmp_path):
    save(tmp_path / name)

    with pytest.raises(ValueError, match=f"is {kind}, which cannot be read as plain tensors; save the network's"):
        read_weights(tmp_path / name)
