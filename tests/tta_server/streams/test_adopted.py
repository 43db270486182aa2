"""A state from a file is taken over only if a step could have made it; else nothing changes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from tests.states import bits
from tests.tta_server.runtime.fakes import WHO, Wired, ask, learn_all, rows, tiny, wired
from tta_server import adapters
from tta_server.errors import BadRequest
from tta_server.guard.guard import Guard
from tta_server.settings import GuardSettings
from tta_server.streams.files.stored import MOST_STEPS

Tensors = dict[str, torch.Tensor]


def guarded(**keys: object) -> Wired:
    adapter = adapters.create("tent", lr=0.01)
    settings = GuardSettings(min_diversity=0, max_class_share=1, max_update=10)
    return wired(adapter, judge=Guard(tiny(), adapter, None, settings), **keys)


def taught(**keys: object) -> Wired:
    subject = guarded(**keys)
    for seed in range(3):
        ask(subject, "door", rows(4, seed))
        learn_all(subject)
    assert subject.stream("door").steps == 3
    return subject


def changed(data: bytes, change: Callable[[Tensors], Tensors] = dict, steps: str = "") -> bytes:
    """Return a state file with other tensors, or other words for the number of steps."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])["__metadata__"]["tta_state"]
    if steps:
        about = json.loads(header)
        about["about"]["steps"] = "@"
        header = json.dumps(about).replace('"@"', steps)
    return save(change(load(data)), {"tta_state": header})


def everything(subject: Wired) -> tuple:
    stream = subject.stream("door")
    return stream.summary(), stream.details(), bits(stream.state), bits(stream.memory)


def each(prefix: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {
        name: change(tensor) if name.startswith(prefix) or name.endswith(prefix) else tensor
        for name, tensor in tensors.items()
    }


def without(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("momentum/")}


WILD = {
    "a negative variance": each("running_var", lambda tensor: tensor - 1e3),
    "parameters times 1000": each("theta/", lambda tensor: tensor * 1000),
    "momentum without end": each("momentum/", lambda tensor: tensor + 3e38),
    "momentum that throws far": each("momentum/", lambda tensor: tensor + 1e6),
    "statistics that are not numbers": each("stats/", lambda tensor: tensor * torch.nan),
    "parameters without end": each("theta/", lambda tensor: tensor / 0),
    "another type": each("theta/", torch.Tensor.double),
    "another shape": each("theta/", lambda tensor: tensor[:-1]),
    "a tensor too many": lambda tensors: {**tensors, "theta/more": torch.zeros(2)},
    "tensors too few": without,
    "no tensor": lambda _: {},
}
STEPS = ["-1", str(MOST_STEPS + 1), "1" * 4300, "1" * 5000, "1e400", "1.5", "true", '"3"', "null", "[]", "NaN"]


@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("way", ["import", "restore"])
def test_a_state_that_no_step_could_have_made_is_refused_and_changes_nothing(wild, way, tmp_path: Path):
    subject = taught(storage=str(tmp_path))
    data = changed(subject.commands.states.export("door"), WILD[wild])
    before = everything(subject)

    def take() -> None:
        if way == "import":
            subject.commands.states.adopt("door", data, WHO)
        else:
            subject.commands.states.restore("door", subject.kept.store.snapshot("door", 9, data), WHO)

    with pytest.raises(BadRequest):
        take()

    assert everything(subject) == before


@pytest.mark.parametrize("steps", STEPS)
def test_a_number_of_steps_that_is_none_is_refused_and_changes_nothing(steps):
    subject = taught()
    before = everything(subject)

    with pytest.raises(BadRequest) as caught:
        subject.commands.states.adopt("door", changed(subject.commands.states.export("door"), steps=steps), WHO)

    assert len(str(caught.value)) < 300
    assert everything(subject) == before


def test_a_good_state_is_taken():
    subject = taught()
    data = subject.commands.states.export("door")
    subject.commands.reset("door", WHO)

    told = subject.commands.states.adopt("door", changed(data), WHO)

    assert told["steps"] == 3
    assert ask(subject, "door", rows(2)).adapted


def test_a_refusal_says_how_far_is_too_far():
    subject = taught()

    with pytest.raises(BadRequest, match=r"its parameters are \S+ from the source's, more than 0.3"):
        subject.commands.states.adopt(
            "door", changed(subject.commands.states.export("door"), WILD["parameters times 1000"]), WHO
        )


@pytest.mark.parametrize("wild", ["a negative variance", "parameters times 1000", "statistics that are not numbers"])
def test_a_stored_state_that_no_step_could_have_made_answers_nobody(wild, tmp_path: Path):
    first = taught(storage=str(tmp_path))
    first.commands.evict("door")
    assert first.kept.keeper.flush(30)
    first.kept.store.save("door", 4, changed(first.kept.store.load("door"), WILD[wild]))
    first.kept.keeper.close()

    second = guarded(storage=str(tmp_path))

    with pytest.raises(Exception, match="is set aside: its state is not what a step could have made"):
        ask(second, "door", rows(1))
