"""No setting of an adapter can stop a server: every number has a most, over the registry."""

import dataclasses
import math
import re
import tracemalloc
from types import SimpleNamespace
from typing import Annotated, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.networks import bundle, reference_network
from tta_server import adapters
from tta_server.adapters.bounds import MAX_STREAM_BYTES, Within, bounds, check_settings, hints
from tta_server.models import TorchBackbone
from tta_server.settings import AdapterSettings
from tta_server.wanted import make_adapter


def kinds(hint):
    """Return what an annotation consists of."""
    parts = [kinds(part) for part in get_args(hint) if not isinstance(part, (Within, list, str))]
    return {get_origin(hint) or hint}.union(*parts)


def fields(*wanted):
    """Return (adapter, field) for the fields of every registered adapter that consist of one of `wanted`."""
    return [
        (name, field)
        for name in adapters.names()
        for field, hint in hints(type(adapters.create(name))).items()
        if kinds(hint) & set(wanted) and "Generator" not in str(hint)
    ]


def number(name, field, value):
    hint = hints(type(adapters.create(name)))[field]
    value = int(value) if math.isfinite(value) and int in kinds(hint) else value
    return (value, value) if tuple in kinds(hint) else value


NUMBERS = fields(int, float)
CHOICES = fields(Literal)
TOO_MUCH = [1e12, -1e12, math.nan, math.inf, -math.inf]


def test_there_are_numbers_and_choices_to_try():
    assert {"cotta views", "rotta capacity", "vida rank_high", "tent lr", "eata betas"} <= {
        " ".join(f) for f in NUMBERS
    }
    assert {"tent optimizer", "lame affinity", "vida scope"} <= {" ".join(f) for f in CHOICES}


@pytest.mark.parametrize("value", TOO_MUCH)
@pytest.mark.parametrize(("name", "field"), NUMBERS)
def test_a_number_without_measure_is_refused_with_its_bounds_before_anything_is_allocated(name, field, value):
    within = bounds(hints(type(adapters.create(name)))[field])[1]
    tracemalloc.start()

    with pytest.raises(ValueError, match=rf"{field} must be .*{re.escape(str(within))}.*, got"):
        adapters.create(name, **{field: number(name, field, value)})

    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("value", TOO_MUCH)
@pytest.mark.parametrize(("name", "field"), NUMBERS)
def test_a_request_or_a_file_with_it_is_refused_by_the_name_of_the_field(name, field, value):
    with pytest.raises(ValueError, match=rf"adapter '{name}': .*{field}"):
        make_adapter(AdapterSettings(name=name, settings={field: number(name, field, value)}))


@pytest.mark.parametrize(("name", "field"), CHOICES)
def test_an_unknown_choice_is_refused_with_those_there_are(name, field):
    hint = hints(type(adapters.create(name)))[field]

    with pytest.raises(ValueError, match=rf"{field} must be .*'{get_args(hint)[-1]}', got 'nothing'"):
        adapters.create(name, **{field: "nothing"})


@pytest.mark.parametrize(("name", "field"), fields(bool))
def test_what_is_neither_true_nor_false_is_refused(name, field):
    with pytest.raises(ValueError, match=f"{field} must be true or false, got 1"):
        adapters.create(name, **{field: 1})


@pytest.mark.parametrize(("name", "field"), NUMBERS)
def test_the_bounds_themselves_are_kept(name, field):
    hint = hints(type(adapters.create(name)))[field]
    within, whole = bounds(hint)[1], int in kinds(hint)
    inside = (within.least + within.most) / 2 if within.above or within.below else within.most

    made = adapters.create(name, **{field: number(name, field, int(inside) if whole else inside)})

    assert made == dataclasses.replace(made)


@pytest.mark.parametrize(("name", "field"), [("cotta", "views"), ("rotta", "capacity"), ("vida", "rank_high")])
@pytest.mark.parametrize("value", [2.0, True, "4"])
def test_a_number_that_is_not_whole_is_refused(name, field, value):
    with pytest.raises(ValueError, match=f"{field} must be .* and whole, got {value!r}"):
        adapters.create(name, **{field: value})


@pytest.mark.parametrize(
    ("name", "settings", "size"),
    [("rotta", {"capacity": 1024}, "3072 MiB"), ("adanpc", {"capacity": 65536}, "512 MiB")],
)
def test_what_a_stream_would_remember_is_refused_by_its_bytes_before_it_is_allocated(name, settings, size):
    backbone = TorchBackbone(reference_network(), (3, 32, 32))
    spec = dataclasses.replace(backbone.spec, input_shape=(3, 1024, 1024), features=2048)
    large = SimpleNamespace(
        spec=spec, device=backbone.device, norm_affine=backbone.norm_affine, norm_stats=backbone.norm_stats
    )
    reference = bundle(SimpleNamespace(spec=spec, device=backbone.device, norm_affine=backbone.norm_affine))

    with pytest.raises(ValueError, match=f"a capacity of {settings['capacity']} would take {size} of each stream, at"):
        adapters.create(name, **settings).init(large, reference)

    assert MAX_STREAM_BYTES == 256 * 2**20


@dataclasses.dataclass(frozen=True)
class Mine:
    free: float = 1.0
    label: str = "text"
    some: tuple[str, ...] = ()
    maybe: Annotated[int | None, Within(1, 3)] = None


@given(st.floats())
def test_a_number_without_bounds_must_be_finite(value):
    if math.isfinite(value):
        check_settings(Mine(free=value))
    else:
        with pytest.raises(ValueError, match="free must be a finite number"):
            check_settings(Mine(free=value))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": 3}, "label must be a text, got 3"),
        ({"some": ["a"]}, "some must be a tuple of texts"),
        ({"some": ("a", 1)}, "some must be a tuple of texts"),
        ({"maybe": 4}, "maybe must be >= 1 and <= 3 and whole, got 4"),
    ],
)
def test_other_kinds_are_checked_too(settings, message):
    check_settings(Mine())
    check_settings(Mine(maybe=2, some=("a", "b")))
    with pytest.raises(ValueError, match=message):
        check_settings(Mine(**settings))


@given(st.floats(allow_nan=True), st.booleans(), st.booleans())
def test_bounds_are_open_or_closed_as_they_say(value, above, below):
    expected = (value > 1 if above else value >= 1) and (value < 5 if below else value <= 5)

    assert Within(1, 5, above, below).holds(value) == expected
