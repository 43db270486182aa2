"""The Dockerfile, read instruction by instruction; its own commands are run where that needs no container engine."""

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.pages import block
from tta_server.settings import ModelSettings, Settings
from tta_server.settings_file import load_settings

KNOWN = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "USER", "WORKDIR"}


class Instruction(NamedTuple):
    """One instruction of a Dockerfile."""

    name: str
    value: str


@pytest.fixture(scope="module")
def stages(root) -> list[list[Instruction]]:
    """Return the instructions of the image's stages."""
    return read(root / "Dockerfile")


def read(path: Path) -> list[list[Instruction]]:
    """Return the instructions of each stage, the first of them its FROM."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]
    starts = [i for i, instruction in enumerate(found) if instruction.name == "FROM"]
    assert {instruction.name for instruction in found} <= KNOWN
    assert {instruction.name for instruction in found[: starts[0]]} <= {"ARG"}
    return [found[start:end] for start, end in zip(starts, [*starts[1:], len(found)], strict=True)]


def last(stage: list[Instruction], name: str) -> str:
    """Return the value of the last instruction of this name."""
    return [instruction.value for instruction in stage if instruction.name == name][-1]


def test_the_image_is_built_in_two_stages_on_the_same_base(stages):
    first, second = (stage[0].value.split(" AS ") for stage in stages)

    assert first == [second[0], "builder"]
    assert "slim" in second[0]


def test_the_image_does_not_run_as_root(stages):
    assert last(stages[-1], "USER") == "10001:10001"


def test_one_process_serves(stages):
    assert json.loads(last(stages[-1], "ENTRYPOINT")) == ["tta-server"]
    assert json.loads(last(stages[-1], "CMD")) == ["serve"]


def test_the_entry_point_is_a_script_of_the_package(root, stages):
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]

    assert json.loads(last(stages[-1], "ENTRYPOINT"))[0] in scripts


def test_the_exposed_port_is_the_default_one(stages):
    assert last(stages[-1], "EXPOSE") == str(Settings().server.port)


def test_the_image_listens_on_every_interface(stages):
    assert "TTA_SERVER__HOST=::" in last(stages[-1], "ENV").split()


def test_everything_that_is_copied_exists_and_is_not_ignored(root, stages):
    lines = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    allowed = [line[1:] for line in lines if line.startswith("!")]
    copied = [
        source
        for stage in stages
        for instruction in stage
        if instruction.name == "COPY" and "--from=" not in instruction.value
        for source in instruction.value.split()[:-1]
    ]

    assert lines[0] == "*"
    assert {"models", "adapters", "tta_server", "pyproject.toml"} <= set(copied)
    for source in copied:
        assert (root / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source


def test_the_venv_is_copied_to_where_it_was_made(stages):
    (copied,) = [instruction.value for instruction in stages[-1] if instruction.name == "COPY"]
    _, source, target = copied.split()
    made = [instruction.value for instruction in stages[0] if "-m venv" in instruction.value]

    assert copied.startswith("--from=builder ")
    assert source == target
    assert made[0] == f"python -m venv {source}"


def test_nothing_but_the_build_arguments_names_an_index(root):
    text = (root / "Dockerfile").read_text()

    assert 'ARG TORCH_INDEX=""' in text
    assert "\nARG PIP_INDEX_URL\n" in text
    assert "://" not in text
    assert "-url" not in text


def test_the_dependencies_are_split_into_torch_and_all(root, stages, tmp_path):
    (tmp_path / "pyproject.toml").write_text((root / "pyproject.toml").read_text())
    command = next(instruction.value for instruction in stages[0] if "torch.txt" in instruction.value)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    subprocess.run(["sh", "-c", command], cwd=tmp_path, env={"PATH": path}, check=True, timeout=30)

    wanted = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    torch = (tmp_path / "torch.txt").read_text().splitlines()
    assert (tmp_path / "all.txt").read_text().splitlines() == wanted
    assert [re.split(r"\W", line)[0] for line in torch] == ["torch", "torchvision"]


def test_the_image_with_a_model_of_ones_own_serves_the_one_of_the_readme(root, monkeypatch):
    path = root / "k8s/own-model/Dockerfile"
    (stage,) = read(path)
    named = dict(each.split("=", 1) for each in shlex.split(last(stage, "ENV")))
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    _, folder = last(stage, "COPY").split()

    got, wanted = load_settings().model, yaml.safe_load(block("yaml", "my_models:small"))["model"]

    assert got == ModelSettings(**wanted | {"weights": f"{folder}/{wanted['weights']}"})
    assert named["PYTHONPATH"] == folder
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG BASE=tta-server:{version}\nFROM ${{BASE}}\n" in path.read_text()


def test_a_mirror_and_the_versions_to_take_hold_in_every_step(stages):
    for stage in stages:
        names = [each.value if each.name == "ARG" else each.name for each in stage]
        steps = [i for i, each in enumerate(stage) if each.name == "RUN" and "pip install" in each.value]
        for given in ("PIP_INDEX_URL", "PIP_CONSTRAINT"):
            assert not steps or names.index(given) < steps[0]
        assert not any(word in stage[i].value for i in steps for word in ("PIP_CONSTRAINT", "--isolated", "env -i"))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "unset"),
        ({"TORCH_INDEX": "some-index"}, "some-index"),
        ({"PIP_INDEX_URL": "mirror"}, "mirror"),
        ({"PIP_INDEX_URL": "mirror", "TORCH_INDEX": "some-index"}, "some-index"),
    ],
)
def test_torch_has_an_index_of_its_own_only_if_one_is_given(stages, tmp_path, given, wanted):
    command = next(instruction.value for instruction in stages[0] if "-r torch.txt" in instruction.value)
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\necho "${PIP_INDEX_URL-unset}"\n')
    pip.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TORCH_INDEX": ""} | given

    ran = subprocess.run(["sh", "-c", command], env=environment, check=True, capture_output=True, text=True, timeout=30)

    assert ran.stdout.strip() == wanted


@pytest.mark.parametrize("where", ["variables", "file"])
def test_the_health_check_tells_a_server_from_none(stages, live_server, closed_port, tmp_path, where):
    options, _, form = last(stages[-1], "HEALTHCHECK").partition("CMD ")
    program, *rest = json.loads(form)
    # Whatever imports torch would take too long. Its own folder comes first where a command is installed, no other.
    code = "import sys; sys.modules['torch'] = None; from tta_server.cli import main; sys.exit(main(sys.argv[1:]))"

    def status(port: str | int) -> int:
        config = tmp_path / "config.yaml"
        adapter = {"name": "bn", "settings": {}}
        config.write_text(yaml.safe_dump({"server": {"port": int(port)}, "adapter": adapter}))
        given = {"TTA_CONFIG": str(config)} if where == "file" else {"TTA_SERVER__PORT": str(port)}
        environment = {**os.environ, "TTA_SERVER__HOST": "0.0.0.0", **given}
        command = [sys.executable, "-c", code, *rest]
        return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60).returncode

    assert "--start-period=" in options
    assert program == "tta-server"
    assert status(live_server.rpartition(":")[2]) == 0
    assert status(closed_port) == 1
