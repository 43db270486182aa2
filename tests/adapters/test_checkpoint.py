import contextlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from tests.networks import reference_network
from tests.states import bits, layout
from tta_server import adapters
from tta_server.adapters import dump_state, load_state
from tta_server.adapters.checkpoint import load_beside, read_about, state_digest
from tta_server.adapters.tensor_file import TYPES
from tta_server.models import TorchBackbone

FUZZ = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
DAMAGED = "not a state file of this server, or a damaged one"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def tent() -> adapters.Adapter:
    return adapters.create("tent")


@pytest.fixture(scope="module")
def file(tent, backbone, batches, tmp_path_factory) -> Path:
    """A state after one step; a path, because Hypothesis shows all arguments when a property fails."""
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    path.write_bytes(dump_state(tent, backbone, tent.adapt(backbone, tent.init(backbone), batches[0]).state))
    return path


@pytest.mark.parametrize("dtype", TYPES)
def test_tensors_of_any_type_and_layout_come_back_bitwise(tent, backbone, dtype):
    values = torch.arange(12).reshape(3, 4).to(dtype)
    beside = {"plain": values, "again": values, "turned": values.T, "none": values[:0], "one": values[0, 0]}

    found = load_beside(dump_state(tent, backbone, tent.init(backbone), beside=beside))

    assert bits(found) == bits(beside)
    assert layout(found) == layout({name: beside[name] for name in found})


@pytest.fixture
def dumped(file) -> bytes:
    return file.read_bytes()


def metadata(data: bytes) -> dict:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["tta_state"])


def rewritten(data: bytes, about: str) -> bytes:
    """Return the same tensors with other words about them."""
    return save(load(data), {"tta_state": about})


def test_the_file_is_plain_safetensors_that_says_what_it_belongs_to(tent, backbone, dumped):
    about = metadata(dumped)

    assert load(dumped).keys() == tent.init(backbone).keys()
    assert (about["adapter"], about["model"], about["digest"]) == ("tent", "reference", backbone.spec.digest)
    assert about["settings"]["lr"] == tent.lr


def test_the_same_state_gives_the_same_bytes(tent, backbone, dumped):
    assert dump_state(tent, backbone, load_state(tent, backbone, dumped)) == dumped


def test_what_is_read_shares_no_memory_with_the_bytes(tent, backbone, dumped):
    before = bytes(dumped)

    for tensor in load_state(tent, backbone, dumped).values():
        tensor.zero_()

    assert dumped == before


def test_other_settings_with_the_same_layout_are_accepted(tent, backbone, dumped):
    other = adapters.create("tent", lr=1.0, momentum=0.5, stats_momentum=0.3)

    assert bits(load_state(other, backbone, dumped)) == bits(load_state(tent, backbone, dumped))


@pytest.mark.parametrize("settings", [{"optimizer": "adam"}, {"stats": "batch"}])
def test_settings_with_another_layout_are_refused(backbone, dumped, settings):
    with pytest.raises(ValueError, match="does not have the tensors that adapter 'tent' with these settings keeps"):
        load_state(adapters.create("tent", **settings), backbone, dumped)


@pytest.mark.parametrize("name", ["bn", "source"])
def test_the_state_of_another_adapter_is_refused(backbone, dumped, name):
    with pytest.raises(ValueError, match=f"state belongs to adapter 'tent', expected '{name}'"):
        load_state(adapters.create(name), backbone, dumped)


def test_the_state_of_other_weights_is_refused_with_both(tent, backbone, dumped):
    network = reference_network()
    network.fc.bias.data[0] += 1e-6
    other = TorchBackbone(network, (3, 32, 32), name="retrained")

    with pytest.raises(
        ValueError,
        match=f"model 'reference' with weights {backbone.spec.digest[:12]}, "
        f"expected 'retrained' with weights {other.spec.digest[:12]}",
    ):
        load_state(tent, other, dumped)


def test_the_name_of_the_model_does_not_matter_if_its_weights_are_the_same(tent, dumped):
    renamed = TorchBackbone(reference_network(), (3, 32, 32), name="renamed")

    assert load_state(tent, renamed, dumped).keys() == tent.init(renamed).keys()


def test_a_count_that_an_older_file_does_not_have_begins_as_in_a_fresh_state(tent, backbone, dumped):
    kept = {name: tensor for name, tensor in load(dumped).items() if not name.startswith("count/")}
    older = save(kept, {"tta_state": json.dumps(metadata(dumped))})

    state = load_state(tent, backbone, older)

    assert bits(state) == bits({**load_state(tent, backbone, dumped), "count/images": torch.tensor(4.0)})
    assert list(state) == list(tent.init(backbone))
    with pytest.raises(ValueError, match="does not have the tensors"):
        load_state(adapters.create("tent", stats="batch"), backbone, dumped)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("theta/bn.weight"),
        lambda tensors: tensors.update({"theta/more": torch.zeros(1)}),
        lambda tensors: tensors.update({"theta/bn.weight": torch.zeros(17)}),
        lambda tensors: tensors.update({"theta/bn.weight": torch.zeros(1, 16)}),
        lambda tensors: tensors.update({"theta/bn.weight": torch.zeros(16, dtype=torch.float64)}),
    ],
    ids=["missing", "more", "longer", "deeper", "wider"],
)
def test_another_layout_is_refused(tent, backbone, dumped, change):
    tensors = load(dumped)
    change(tensors)

    with pytest.raises(ValueError, match="does not have the tensors"):
        load_state(tent, backbone, save(tensors, {"tta_state": json.dumps(metadata(dumped))}))


def test_another_schema_is_refused(tent, backbone, dumped):
    with pytest.raises(ValueError, match="state file has schema 2, expected 1"):
        load_state(tent, backbone, rewritten(dumped, json.dumps(metadata(dumped) | {"schema": 2})))


@pytest.mark.parametrize("about", [None, {"other": "x"}])
def test_a_safetensors_file_of_something_else_is_refused(tent, backbone, dumped, about):
    with pytest.raises(ValueError, match=DAMAGED):
        load_state(tent, backbone, save(load(dumped), about))


@pytest.mark.parametrize("key", ["schema", "adapter", "model", "digest"])
def test_a_missing_word_about_the_state_is_refused(tent, backbone, dumped, key):
    about = metadata(dumped)
    del about[key]

    with pytest.raises(ValueError, match=DAMAGED):
        load_state(tent, backbone, rewritten(dumped, json.dumps(about)))


@FUZZ
@given(about=json_values.map(json.dumps) | st.text(max_size=20))
def test_any_other_words_about_the_state_are_refused_with_a_value_error(tent, backbone, file, about):
    with pytest.raises(ValueError, match=DAMAGED):
        load_state(tent, backbone, rewritten(file.read_bytes(), about))


@FUZZ
@given(key=st.sampled_from(["schema", "adapter", "model", "digest"]), value=json_values)
def test_a_wrong_word_never_raises_anything_but_a_value_error(tent, backbone, file, key, value):
    with contextlib.suppress(ValueError):
        load_state(tent, backbone, rewritten(file.read_bytes(), json.dumps(metadata(file.read_bytes()) | {key: value})))


def test_words_nested_too_deep_to_parse_are_refused(tent, backbone, dumped):
    with pytest.raises(ValueError, match=DAMAGED):
        load_state(tent, backbone, rewritten(dumped, "[" * 100_000))


@FUZZ
@given(share=st.floats(0, 0.9999))
def test_truncated_bytes_are_refused(tent, backbone, file, share):
    with pytest.raises(ValueError, match=DAMAGED):
        load_state(tent, backbone, file.read_bytes()[: int(len(file.read_bytes()) * share)])


@FUZZ
@given(data=st.binary(max_size=300), header=st.booleans())
def test_random_bytes_are_refused(tent, backbone, data, header):
    if header:
        data = len(data).to_bytes(8, "little") + data

    with pytest.raises(ValueError, match=DAMAGED):
        load_state(tent, backbone, data)


@FUZZ
@given(content=json_values)
def test_a_header_of_any_other_json_is_refused(tent, backbone, content):
    header = json.dumps({"__metadata__": content} if not isinstance(content, dict) else content).encode()

    with pytest.raises(ValueError, match=DAMAGED):
        load_state(tent, backbone, len(header).to_bytes(8, "little") + header)


@FUZZ
@given(at=st.integers(0, 4000), value=st.integers(0, 255))
def test_a_flipped_byte_never_raises_anything_but_a_value_error(tent, backbone, file, at, value):
    data = bytearray(file.read_bytes())
    data[at] = value

    with contextlib.suppress(ValueError):
        load_state(tent, backbone, bytes(data))


def test_a_pickle_is_refused(tent, backbone, tmp_path):
    torch.save(dict(tent.init(backbone)), tmp_path / "state.pt")

    with pytest.raises(ValueError, match=DAMAGED):
        load_state(tent, backbone, (tmp_path / "state.pt").read_bytes())


facts = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
tensors_beside = st.dictionaries(
    st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5})?", fullmatch=True),
    st.lists(st.floats(width=32, allow_nan=False), max_size=3).map(torch.tensor),
    max_size=3,
)


@FUZZ
@given(about=facts, beside=tensors_beside)
def test_what_is_put_beside_a_state_comes_back_and_changes_nothing_of_it(tent, backbone, file, about, beside):
    state = load_state(tent, backbone, file.read_bytes())

    data = dump_state(tent, backbone, state, about, beside)

    assert read_about(data)["about"] == about
    assert bits(load_beside(data)) == bits(beside)
    assert bits(load_state(tent, backbone, data)) == bits(state)


def test_a_file_says_what_it_belongs_to_without_its_adapter(backbone, dumped):
    about = read_about(dumped)

    assert (about["adapter"], about["model"], about["digest"]) == ("tent", "reference", backbone.spec.digest)
    assert about["about"] == {}
    assert load_beside(dumped) == {}


def test_a_file_from_before_facts_were_kept_still_loads(tent, backbone, dumped):
    about = metadata(dumped)
    del about["about"]
    old = rewritten(dumped, json.dumps(about))

    assert read_about(old)["about"] == {}
    assert bits(load_state(tent, backbone, old)) == bits(load_state(tent, backbone, dumped))


@pytest.mark.parametrize("facts", [None, [], "text", 3])
def test_facts_of_another_kind_are_refused(dumped, facts):
    with pytest.raises(ValueError, match=DAMAGED):
        read_about(rewritten(dumped, json.dumps(metadata(dumped) | {"about": facts})))


@FUZZ
@given(
    data=st.binary(max_size=300).filter(lambda data: data.strip() != b"{}"), header=st.booleans()
)  # a file of nothing
def test_random_bytes_say_nothing_of_themselves(data, header):
    if header:
        data = len(data).to_bytes(8, "little") + data

    for read in (read_about, load_beside):
        with pytest.raises(ValueError, match=DAMAGED):
            read(data)


def test_equal_states_have_equal_digests(tent, backbone, dumped):
    state = load_state(tent, backbone, dumped)

    shuffled = {name: state[name].clone() for name in reversed(list(state))}

    assert state_digest(shuffled) == state_digest(state)
    assert state_digest({}) != state_digest(state)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.double(),
        lambda tensor: tensor[None],
        lambda tensor: tensor.view(torch.int32),
        lambda tensor: torch.cat([tensor, tensor[:1]]),
        lambda tensor: torch.nextafter(tensor, torch.tensor(9.0)),
        lambda tensor: torch.where(torch.arange(len(tensor)) == 0, -0.0, tensor),
    ],
    ids=["type", "shape", "view", "longer", "one bit", "sign of zero"],
)
def test_states_that_differ_have_other_digests(change):
    state = {"theta/a": torch.tensor([0.0, 1.0]), "theta/b": torch.tensor([2.0])}

    assert state_digest(state | {"theta/a": change(state["theta/a"])}) != state_digest(state)


def test_a_name_is_part_of_the_digest():
    ones = torch.ones(2)

    assert state_digest({"a": ones, "b": ones}) != state_digest({"a": ones, "c": ones})
