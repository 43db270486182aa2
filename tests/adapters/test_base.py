import re
from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server import adapters
from tta_server.adapters import base
from tta_server.adapters.source import Source
from tta_server.adapters.tent import Tent

FAST = settings(deadline=None, max_examples=50)
words = st.text("abc./", max_size=6)


# The registry
def test_an_adapter_is_made_by_name_with_its_settings():
    assert adapters.create("tent", lr=0.5, optimizer="adam") == Tent(lr=0.5, optimizer="adam")
    assert adapters.create("source") == Source()


@pytest.mark.parametrize("name", ["", "Tent", "tent ", "none"])
def test_an_unknown_name_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=f"unknown adapter '{name}'; use one of {', '.join(adapters.names())}"):
        adapters.create(name)


@pytest.mark.parametrize("setting", ["learning_rate", "name", "requires", "stackable"])
def test_an_unknown_setting_is_refused_with_those_there_are(setting):
    with pytest.raises(ValueError, match=f"adapter 'tent' has no setting '{setting}'; it has lr, optimizer, momentum"):
        adapters.create("tent", **{setting: 1})


def test_a_setting_for_an_adapter_without_any_is_refused():
    with pytest.raises(ValueError, match="adapter 'source' has no setting 'lr'; it has none"):
        adapters.create("source", lr=1)


def test_a_value_out_of_range_is_refused():
    with pytest.raises(ValueError, match="lr must be > 0"):
        adapters.create("tent", lr=-1)


def test_names_are_sorted_and_each_makes_an_adapter_of_that_name():
    assert list(adapters.names()) == sorted(adapters.names())
    assert {"source", "bn", "tent"} <= set(adapters.names())
    assert all(adapters.create(name).name == name for name in adapters.names())


@pytest.mark.parametrize("name", adapters.names())
def test_an_adapter_is_a_value_with_what_the_server_reads(name):
    adapter = adapters.create(name)

    assert adapter == adapters.create(name)
    assert hash(adapter) == hash(adapters.create(name))
    assert isinstance(adapter.batch_coupled, bool)
    assert isinstance(adapter.requires, frozenset)
    with pytest.raises((FrozenInstanceError, AttributeError)):
        adapter.batch_coupled = True


def test_a_registered_adapter_can_be_made(monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))

    @base.register
    @dataclass(frozen=True)
    class Mine:
        strength: float = 1.0
        name: ClassVar[str] = "mine"

    assert adapters.create("mine", strength=2.0) == Mine(2.0)
    assert "mine" in adapters.names()


# Whether a backbone can be served
def test_an_adapter_that_lacks_nothing_is_accepted(backbone, layer_norm_backbone):
    base.check(adapters.create("bn"), backbone)
    base.check(adapters.create("tent"), backbone)
    base.check(adapters.create("tent"), layer_norm_backbone)
    base.check(adapters.create("source"), layer_norm_backbone)


def test_an_adapter_that_lacks_something_is_refused_with_what_it_is(layer_norm_backbone):
    message = (
        "adapter 'bn' needs batchnorm, which backbone 'layernorm' does not have; use one that needs less, such as "
        "'source' or 'lame', or another backbone"
    )

    with pytest.raises(ValueError, match=re.escape(message)):
        base.check(adapters.create("bn"), layer_norm_backbone)


# Groups of a state
@FAST
@given(
    parts=st.dictionaries(st.sampled_from(["theta", "stats", "the"]), st.dictionaries(words, st.integers(), max_size=3))
)
def test_groups_come_apart_as_they_were_put_together(parts):
    state = {}
    for prefix, tensors in parts.items():
        state |= base.ungroup(prefix, tensors)

    assert all(base.group(state, prefix) == tensors for prefix, tensors in parts.items())
    assert base.group(state, "other") == {}


# The last gate
def test_a_finite_new_state_is_accepted_if_something_was_selected():
    old, new = {"a": torch.zeros(2), "n": torch.tensor(1)}, {"a": torch.ones(2), "n": torch.tensor(2)}

    kept, accepted = base.accept(old, new, torch.tensor(True))

    assert accepted
    assert kept["a"].tolist() == [1, 1]
    assert kept["n"] == 2


@FAST
@given(
    bad=st.sampled_from([torch.nan, torch.inf, -torch.inf, None]),
    name=st.sampled_from("ab"),
    at=st.integers(0, 2),
    selected=st.booleans(),
)
def test_one_number_that_is_not_finite_keeps_the_whole_old_state_bit_for_bit(bad, name, at, selected):
    old = {"a": torch.tensor([0.0, -0.0, 1e-45]), "b": torch.tensor([1.0, 2.0, 3.0]), "n": torch.tensor(3)}
    new = {key: tensor + 1 for key, tensor in old.items()}
    if bad is not None:
        new[name][at] = bad

    kept, accepted = base.accept(old, new, torch.tensor(selected))

    assert bool(accepted) == (selected and bad is None)
    expected = new if accepted else old
    assert list(kept) == list(old)
    assert all(kept[key].numpy().tobytes() == expected[key].numpy().tobytes() for key in old)


def test_each_stream_is_judged_on_its_own_when_they_are_stacked():
    old, new = {"a": torch.zeros(3, 2)}, {"a": torch.tensor([[1.0, 1.0], [torch.nan, 1.0], [1.0, 1.0]])}

    kept, accepted = torch.vmap(base.accept)(old, new, torch.tensor([True, True, False]))

    assert accepted.tolist() == [True, False, False]
    assert kept["a"].tolist() == [[1, 1], [0, 0], [0, 0]]


def test_a_state_without_floats_is_judged_by_the_selection_alone():
    kept, accepted = base.accept({"n": torch.tensor(1)}, {"n": torch.tensor(2)}, torch.tensor(False))

    assert not accepted
    assert kept["n"] == 1
