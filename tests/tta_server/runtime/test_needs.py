"""Whether there is memory for a step: measured, and read from what the system says."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.tta_server.runtime.fakes import tiny
from tta_server import adapters
from tta_server.adapters import State, Step
from tta_server.models import Backbone, Model, TorchBackbone
from tta_server.models.catalog import load
from tta_server.runtime import needs
from tta_server.runtime.needs import expect_room, memory_left, step_bytes

MIB = 2**20


def network(side: int) -> TorchBackbone:
    """Return a network of which a gradient needs what goes into each of four layers, beside small things."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
    ]
    return TorchBackbone(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)), (3, side, side)
    )


@pytest.fixture(scope="module")
def embedded() -> Model:
    return load("glyphs")


def kept(adapter: adapters.Adapter, backbone: TorchBackbone) -> float:
    return step_bytes(adapter, backbone, adapter.init(backbone))


def test_a_step_keeps_the_maps_that_its_gradient_needs():
    adapter, map_bytes = adapters.create("tent"), 16 * 64 * 64 * 4

    found = kept(adapter, network(64))

    assert 2 * map_bytes <= found <= 5 * map_bytes
    assert kept(adapter, network(128)) == pytest.approx(4 * found, rel=0.05)


@pytest.mark.parametrize("adapter", adapters.registered(), ids=lambda adapter: adapter.name)
def test_whatever_the_adapter_as_much_is_kept_the_second_time_and_nothing_without_a_gradient(adapter, embedded):
    backbone, state = embedded.backbone, adapter.init(embedded.backbone, embedded.reference)

    found = [step_bytes(adapter, backbone, state) for _ in range(2)]

    assert found[0] == found[1]
    if adapter.name in ("source", "bn", "lame", "adanpc"):
        assert found[0] == 0


def group(root: Path, folder: str, names: tuple[str, str], limit: str, usage: int, inactive: str) -> None:
    at = root / "sys/fs/cgroup" / folder
    at.mkdir(parents=True, exist_ok=True)
    for name, content in zip((*names, "stat"), (limit, str(usage), inactive), strict=True):
        (at / f"memory.{name}").write_text(f"{content}\n")


V1, V2 = ("limit_in_bytes", "usage_in_bytes"), ("max", "current")


@pytest.mark.parametrize(
    ("membership", "groups", "expected"),
    [
        ("0::/pod/box", [("pod/box", V2, str(900 * MIB), 200 * MIB, f"inactive_file {50 * MIB}")], 750 * MIB),
        ("0::/", [("", V2, str(900 * MIB), 200 * MIB, "anon 7")], 700 * MIB),
        (
            "0::/pod/box",
            [("pod/box", V2, "max", 200 * MIB, "anon 7"), ("pod", V2, str(300 * MIB), 250 * MIB, "anon 7")],
            50 * MIB,
        ),
        (
            "12:cpu,cpuacct:/x\n4:memory:/box",
            [("memory/box", V1, str(800 * MIB), 700 * MIB, f"total_inactive_file {30 * MIB}")],
            130 * MIB,
        ),
        ("4:memory:/elsewhere", [("memory", V1, str(500 * MIB), 600 * MIB, "cache 1")], 0),
        ("4:memory:/", [("memory", V1, str(2**63 - 4096), 7, "cache 1")], 1000 * MIB),
        ("0::/", [], 1000 * MIB),
    ],
)
def test_what_is_left_is_the_least_of_the_machine_and_of_each_group(tmp_path, membership, groups, expected):
    for one in groups:
        group(tmp_path, *one)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{membership}\n")
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:    {1000 * 1024} kB\n")

    assert memory_left(tmp_path) == expected


def test_where_nobody_says_what_is_left_nothing_is_refused(tmp_path, monkeypatch):
    assert memory_left(tmp_path) is None

    monkeypatch.setattr(needs, "memory_left", lambda: None)
    tent = adapters.create("tent")
    expect_room(tent, tiny(), tent.init(tiny()), 10**9)


def test_a_step_that_has_no_room_is_refused_with_the_number_of_images_that_has(monkeypatch):
    adapter, backbone = adapters.create("tent"), network(64)
    each = kept(adapter, backbone)
    monkeypatch.setattr(needs, "memory_left", lambda: int(10 * each))
    state = adapter.init(backbone)

    expect_room(adapter, backbone, state, 9)
    with pytest.raises(ValueError, match=r"a step of 'tent' on 64 images keeps about .* GiB, .* to at most [67]$"):
        expect_room(adapter, backbone, state, 64)


def test_an_adapter_that_cannot_take_a_step_on_a_whole_window_is_refused(monkeypatch):
    class Fails(type(adapters.create("source"))):
        def adapt(self, backbone: Backbone, state: State, x: torch.Tensor) -> Step:
            if len(x) < 8:
                raise RuntimeError("too few\nfor me")
            return super().adapt(backbone, state, x)

    monkeypatch.setattr(needs, "memory_left", lambda: 1)
    expect_room(Fails(), tiny(), {}, 8)
    with pytest.raises(ValueError, match="'source' cannot learn on backbone 'tiny': RuntimeError: too few for me; "):
        expect_room(Fails(), tiny(), {}, 7)
