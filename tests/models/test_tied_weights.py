"""Files that have one of the several names that a network has for a tensor."""

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from tta_server.models.weights import load_weights, read_weights


class Tied(nn.Module):
    """Has one layer under three names, as whoever keeps `self.features = self.backbone.layers` does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.again = self.first
        self.linear = self.first[0]


@pytest.mark.parametrize("front", ["", "net."])
def test_a_tensor_of_several_names_may_have_one_in_the_file(tmp_path, front):
    saved, path = Tied(), tmp_path / "tied.safetensors"
    save_model(nn.ModuleDict({"net": saved}) if front else saved, str(path))
    served = Tied()

    load_weights(served, read_weights(path), "here")

    assert len(read_weights(path)) < len(served.state_dict())
    assert all(torch.equal(tensor, served.state_dict()[name]) for name, tensor in saved.state_dict().items())


class Wrapped(nn.Module):
    """Has all of its layers at its root and within a child."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"conv": nn.Conv2d(3, 3, 1), "fc": nn.Linear(3, 2)})
        self.conv, self.fc = self.backbone["conv"], self.backbone["fc"]


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
@pytest.mark.parametrize("whole", [True, False])
def test_a_front_is_no_puzzle_where_every_layer_has_two_names(tmp_path, prefix, whole):
    saved, path = Wrapped(), tmp_path / "wrapped.safetensors"
    outer = nn.ModuleDict({prefix[:-1]: saved}) if prefix else saved
    if whole:
        torch.save(outer.state_dict(), path := tmp_path / "wrapped.pth")
    else:
        save_model(outer, str(path))
    served = Wrapped()

    load_weights(served, read_weights(path), "here")

    assert all(torch.equal(tensor, served.state_dict()[name]) for name, tensor in saved.state_dict().items())


def test_a_name_that_is_left_out_is_missing_where_its_tensor_is_its_own(tmp_path):
    path = tmp_path / "tied.safetensors"
    save_model(Tied(), str(path))
    network = Tied()
    network.again = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

    with pytest.raises(ValueError, match="missing"):
        load_weights(network, read_weights(path), "here")
