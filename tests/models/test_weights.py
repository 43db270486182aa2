import contextlib
import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from tta_server.models.weights import load_weights, read_weights

FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return network().state_dict()


@pytest.fixture(params=["w.safetensors", "w.pth"])
def path(request: pytest.FixtureRequest, tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    """A good file of each kind."""
    path = tmp_path / request.param
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


# Reading
def test_what_was_written_is_read(path, weights):
    assert same(read_weights(path), weights)


def test_a_torch_file_of_the_old_format_is_read(tmp_path, weights):
    torch.save(weights, tmp_path / "w.pth", _use_new_zipfile_serialization=False)

    assert same(read_weights(tmp_path / "w.pth"), weights)


@pytest.mark.parametrize("keys", [["state_dict"], ["model_state_dict"], ["model"], ["model", "state_dict"]])
def test_a_wrapped_state_dict_is_unwrapped(tmp_path, weights, keys):
    wrapped = weights
    for key in keys:
        wrapped = {key: wrapped, "epoch": 3, "best": 0.5, "name": "x"}
    torch.save(wrapped, tmp_path / "w.pth")

    assert same(read_weights(tmp_path / "w.pth"), weights)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], 7, torch.zeros(3), {"a": torch.zeros(1), "b": 2}, None])
def test_a_torch_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")

    with pytest.raises(ValueError, match=r"weights file '.*w\.pth' holds no state dict; save the network's state_dict"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore")  # torch gives them up
def test_the_weights_of_quantised_layers_are_refused_with_what_helps(tmp_path):
    network = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)))
    torch.save(network.state_dict(), tmp_path / "w.pth")

    with pytest.raises(ValueError, match=r"quantised layers, .*have a factory build the network"):
        read_weights(tmp_path / "w.pth")


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(network(), tmp_path / "w.pth")

    with pytest.raises(
        ValueError, match=r"tensors: it holds 'torch\.nn\..*\.Sequential', .*save the network's state_dict"
    ):
        read_weights(tmp_path / "w.pth")


def test_a_file_that_holds_itself_is_refused(tmp_path):
    content: dict = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")

    with pytest.raises(ValueError, match="holds no state dict"):
        read_weights(tmp_path / "w.pth")


class Payload:
    """Create a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("where", ["alone", "beside the weights"])
@pytest.mark.parametrize("kind", ["torch", "torch old", "pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pkl", ""])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, weights, where, kind, suffix):
    planted, path = tmp_path / "planted", tmp_path / f"w{suffix}"
    content = Payload(planted) if where == "alone" else {"state_dict": weights, "extra": Payload(planted)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch")

    with pytest.raises(ValueError, match="cannot be read as plain tensors"):
        read_weights(path)

    assert not planted.exists()


def test_the_payload_would_have_run(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "planted")))

    assert (tmp_path / "planted").exists()


def test_the_right_sha256_is_accepted_in_any_case(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    assert same(read_weights(path, digest), read_weights(path, digest.upper()))


def test_a_wrong_sha256_is_refused_with_both(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    with pytest.raises(ValueError, match=f"'{path}' has sha256 {digest}, expected {'0' * 64}"):
        read_weights(path, "0" * 64)


def test_a_wrong_sha256_is_found_before_the_file_is_parsed(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"nonsense")

    with pytest.raises(ValueError, match="has sha256"):
        read_weights(tmp_path / "w.pth", "0" * 64)


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "."])
def test_a_missing_file_is_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=f"'{tmp_path / name}' does not exist; this server never downloads weights"):
        read_weights(tmp_path / name)


@FUZZ
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused_by_name(path, share):
    content = path.read_bytes()
    cut = path.with_name(f"cut{path.suffix}")
    cut.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(ValueError, match=f"'{cut}' cannot be read as plain tensors"):
        read_weights(cut)


@FUZZ
@given(content=st.binary(max_size=200), protocol=st.booleans(), suffix=st.sampled_from([".pth", ".safetensors"]))
@pytest.mark.filterwarnings("ignore")  # torch warns of what it takes for a file of some other kind
def test_random_bytes_never_raise_anything_but_a_value_error(tmp_path, content, protocol, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"\x80\x02" * protocol + content)

    with pytest.raises(ValueError, match=r"cannot be read as plain tensors|holds no state dict"):
        read_weights(path)


@FUZZ
@given(at=st.floats(0, 0.999), value=st.integers(0, 255), old=st.booleans())
@pytest.mark.filterwarnings("ignore")
def test_a_flipped_byte_is_read_or_refused_with_a_value_error(tmp_path, weights, at, value, old):
    path = tmp_path / "w.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=not old)
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] = value
    path.write_bytes(content)

    loaded = {}
    with contextlib.suppress(ValueError):
        loaded = read_weights(path)

    assert all(isinstance(tensor, Tensor) for tensor in loaded.values())


# Loading
def test_every_tensor_is_copied_into_the_network(weights):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    load_weights(module, weights, "w.pth")

    assert same(module.state_dict(), weights)
    assert not {t.data_ptr() for t in module.state_dict().values()} & {t.data_ptr() for t in weights.values()}


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
def test_a_prefix_of_all_names_is_taken_off(weights, prefix):
    module = network()

    load_weights(module, {f"{prefix}{name}": tensor + 1 for name, tensor in weights.items()}, "w.pth")

    assert same(module.state_dict(), {name: tensor + 1 for name, tensor in weights.items()})


# Which of two equal prefixes is meant cannot be known, so there is no "module." before "module.".
@pytest.mark.parametrize(("attribute", "prefix"), [("module", ""), ("model", ""), ("model", "module.")])
def test_a_prefix_that_the_network_has_itself_stays(weights, attribute, prefix):
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, attribute, network())

    module = Wrapper()

    load_weights(module, {f"{prefix}{attribute}.{name}": tensor + 1 for name, tensor in weights.items()}, "w.pth")

    assert same(getattr(module, attribute).state_dict(), {name: tensor + 1 for name, tensor in weights.items()})


def test_counters_of_training_steps_may_be_missing(weights):
    module = network()
    del weights["1.num_batches_tracked"]

    load_weights(module, {name: tensor + 1 for name, tensor in weights.items()}, "w.pth")

    assert torch.equal(module[0].weight, weights["0.weight"] + 1)


class Versioned(nn.Linear):
    """Wants to know which version of its layout a file has, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") != self._version:
            raise ValueError("version should be set to 2")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_network_that_asks_for_the_version_of_its_layout_is_told_todays(tmp_path, suffix):
    file, module = tmp_path / f"weights{suffix}", nn.Sequential(Versioned(3, 2))
    told = module.state_dict()
    torch.save(told, file) if suffix == ".pth" else save_file(told, file)
    other = nn.Sequential(Versioned(3, 2))

    load_weights(other, read_weights(file), str(file))

    assert same(other.state_dict(), told)


def test_missing_and_unknown_names_are_counted_and_the_first_is_named(weights):
    weights["other.weight"] = weights.pop("0.weight")
    weights["more.weight"] = weights.pop("2.bias")

    with pytest.raises(
        ValueError,
        match=r"weights 'w.pth' do not fit the network: 2 tensors are missing \('0.weight' first\) "
        r"and 2 are unknown \('other.weight' first\)",
    ):
        load_weights(network(), weights, "w.pth")


def test_no_weights_at_all_are_refused():
    with pytest.raises(ValueError, match="6 tensors are missing"):
        load_weights(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)), {}, "w.pth")


def test_a_wrong_shape_is_refused_with_both_shapes(weights):
    weights["2.weight"] = torch.zeros(5, 4)

    with pytest.raises(
        ValueError, match=r"'w.pth' do not fit .* '2.weight' has shape \(5, 4\), expected \(2, 4\); check the number"
    ):
        load_weights(network(), weights, "w.pth")


def test_refused_weights_leave_the_network_as_it_was(weights):
    module = network()
    changed = {name: tensor + 1 for name, tensor in weights.items()} | {"2.weight": torch.zeros(5, 4)}

    with pytest.raises(ValueError, match="do not fit"):
        load_weights(module, changed, "w.pth")

    assert same(module.state_dict(), weights)
