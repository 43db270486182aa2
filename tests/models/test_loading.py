"""Weights go into a network by its own names, of its own kinds of numbers, as its own loading has them."""

import contextlib
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from tests.models.test_weights import network, same
from tta_server.models.weights import load_weights, read_weights


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return network().state_dict()


class Renamed(nn.Linear):
    """Calls its bias otherwise since its second version; what was called so before is its weight."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version", 1) < self._version:
            state_dict[f"{prefix}bias"] = state_dict.pop(f"{prefix}shift")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_layer_that_renames_what_is_older_is_told_the_version_of_the_file(prefix, tmp_path):
    told = OrderedDict({f"{prefix}0.weight": torch.rand(2, 3), f"{prefix}0.shift": torch.rand(2)})
    told._metadata = {f"{prefix}0": {"version": 1}, prefix.rstrip("."): {"version": 1}}
    torch.save(told, tmp_path / "w.pth")
    module = nn.Sequential(Renamed(3, 2))

    load_weights(module, read_weights(tmp_path / "w.pth"), "w.pth")

    assert torch.equal(module[0].bias, told[f"{prefix}0.shift"])
    told._metadata[f"{prefix}0"]["version"] = 2
    torch.save(told, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"1 tensors are missing .* and 1 are unknown \('0.shift' first\)"):
        load_weights(module, read_weights(tmp_path / "w.pth"), "w.pth")


@pytest.mark.parametrize("versions", [7, {"0": 7}, {"0": {"version": "x"}}, {7: {}}])
def test_versions_that_are_none_are_not_followed(versions, tmp_path):
    told = OrderedDict({"0.weight": torch.rand(2, 3), "0.shift": torch.rand(2)})
    told._metadata = versions
    torch.save(told, tmp_path / "w.pth")

    with contextlib.suppress(ValueError):
        load_weights(nn.Sequential(Renamed(3, 2)), read_weights(tmp_path / "w.pth"), "w.pth")


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_whole_numbers_without_their_scale_are_refused(weights, kind):
    module = network()
    changed = weights | {"2.weight": weights["2.weight"].to(kind)}

    with pytest.raises(
        ValueError, match=rf"'2.weight' is of {str(kind)[6:]}, expected float32; save them as they were"
    ):
        load_weights(module, changed, "w.pth")

    assert same(module.state_dict(), weights)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.float8_e4m3fn])
def test_another_type_of_real_numbers_is_cast(weights, kind):
    module = network()

    load_weights(module, weights | {"2.bias": torch.tensor([1.0, -2.0]).to(kind)}, "w.pth")

    assert module[2].bias.tolist() == [1, -2]


class Wrapper(nn.Module):
    """Has the names of the network within."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def state_dict(self, *args, **named):
        return self.net.state_dict(*args, **named)


class WholeWrapper(Wrapper):
    def load_state_dict(self, state_dict, strict=True):
        return self.net.load_state_dict(state_dict, strict)


def test_a_network_with_names_of_its_own_reads_what_it_has_saved(weights):
    module = WholeWrapper()

    load_weights(module, {name: tensor + 1 for name, tensor in weights.items()}, "w.pth")

    assert same(module.state_dict(), {name: tensor + 1 for name, tensor in weights.items()})
    with pytest.raises(ValueError, match=r"own state_dict, but its load_state_dict leaves 8 tensors as they were"):
        load_weights(Wrapper(), weights, "w.pth")


def test_a_network_that_loads_in_a_way_of_its_own_and_fails_is_refused(weights):
    class Picky(Wrapper):
        def load_state_dict(self, state_dict):
            raise KeyError("ema")

    with pytest.raises(ValueError, match=r"weights 'w.pth' cannot be loaded by the network: TypeError"):
        load_weights(Picky(), weights, "w.pth")
