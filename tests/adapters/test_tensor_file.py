"""The files of states, against the format's own reader and writer."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from tests.states import bits, layout
from tta_server.adapters.tensor_file import TYPES, _bytes, _laid, write_tensors

SHAPES = [(), (0,), (1,), (3,), (2, 3), (2, 1, 2, 2)]
KINDS = st.tuples(st.sampled_from([*TYPES]), st.sampled_from(SHAPES))


@given(st.dictionaries(st.text(max_size=9), KINDS), st.dictionaries(st.text(max_size=9), st.text(max_size=9)))
def test_the_formats_own_reader_finds_whatever_was_written_and_aligned(kinds, words):
    tensors = {name: torch.arange(math.prod(shape)).reshape(shape).to(dtype) for name, (dtype, shape) in kinds.items()}

    data = write_tensors(tensors, words)

    found, length = load(data), int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert bits(found) == bits(tensors)
    assert layout(found) == layout({name: tensors[name] for name in found})
    assert header["__metadata__"] == words
    starts = {name: 8 + length + header[name]["data_offsets"][0] for name in found}
    assert not any(start % found[name].itemsize for name, start in starts.items())


def test_floats_are_laid_as_the_formats_own_writer_does():
    tensors = {name: torch.rand(shape) for name, shape in zip("dbacef", SHAPES, strict=True)}

    assert write_tensors(tensors, {"of": "one type"}) == save(tensors, {"of": "one type"})


def test_a_view_is_written_as_what_it_shows():
    tensor = torch.arange(12).reshape(3, 4)

    found = load(write_tensors({"turned": tensor.T, "row": tensor[1], "again": tensor}, {}))

    assert bits(found) == bits({"turned": tensor.T, "row": tensor[1], "again": tensor})


def test_a_tensor_of_a_type_that_files_do_not_have_is_named():
    with pytest.raises(ValueError, match=r"tensor 'odd' has type torch\.complex64, which no state file can have"):
        write_tensors({"odd": torch.zeros(2, dtype=torch.complex64)}, {})


def test_what_the_header_says_of_tensors_is_worked_out_once_for_all_states_of_a_layout():
    states = [{"a": torch.rand(2, 3), "b": torch.rand(())} for _ in range(3)]
    _laid.cache_clear()

    found = [load(write_tensors(state, {"number": str(number)})) for number, state in enumerate(states)]

    assert [bits(each) for each in found] == [bits(each) for each in states]
    assert _laid.cache_info().misses == 1


def joined(monkeypatch) -> list[int]:
    """Return a list that will have the bytes of each copy by which tensors are put together."""
    found, cat = [], torch.cat

    def counted(tensors):
        found.append(sum(tensor.nbytes for tensor in tensors))
        return cat(tensors)

    monkeypatch.setattr(torch, "cat", counted)
    return found


def test_only_small_tensors_are_copied_before_they_are_in_the_file(monkeypatch):
    small, large = torch.rand(100), torch.rand(2**14)
    tensors = {"a": small, "b": small, "c": large, "d": large, "e": small, "f": large, "g": small, "h": small}
    copies = joined(monkeypatch)

    found = load(write_tensors(tensors, {}))

    assert bits(found) == bits(tensors)
    assert copies == [2 * small.nbytes] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_tensor_is_read_where_it_is(dtype):
    tensor = torch.zeros(2**15, dtype=dtype)

    assert _bytes([tensor]).ctypes.data == tensor.data_ptr()


def test_small_tensors_of_one_type_take_one_call(monkeypatch):
    tensors = {f"layer-{number}": torch.rand(16) for number in range(40)}
    copies = joined(monkeypatch)

    write_tensors(tensors, {})

    assert copies == [40 * 16 * 4]
