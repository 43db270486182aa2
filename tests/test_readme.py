"""What the README tells people to type works as it stands there."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.server import running
from tta_server.app import build
from tta_server.cli import main
from tta_server.settings_file import load_settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
WRITTEN_ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def block(language: str, mark: str) -> str:
    found = [text for text in blocks(language) if mark in text]
    assert len(found) == 1, f"{len(found)} {language} blocks with {mark!r}"
    return found[0]


def test_the_library_snippet_runs_and_learns():
    names: dict = {}

    exec(compile(block("python", "adapter.adapt"), "README.md", "exec"), names)

    assert names["labels"].shape == (16,)
    initial = names["adapter"].init(names["backbone"])
    assert any(not torch.equal(initial[name], tensor) for name, tensor in names["state"].items())


def test_the_curl_lines_are_answered_by_the_server_that_the_configuration_example_describes(tmp_path):
    assert shutil.which("curl"), "curl is not installed; 'make test' installs it"
    lines = block("bash", "/predict").splitlines()
    assert len(lines) >= 8

    config = yaml.safe_load(block("yaml", "window_rows"))
    config["storage"] = {"url": str(tmp_path / "kept")}  # not in this folder

    with running(tmp_path, config) as server:
        for line in lines:
            command = [*shlex.split(line.replace(WRITTEN_ADDRESS, server.url)), "--fail-with-body", "--silent"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            assert done.stdout


def test_the_example_answer_has_the_fields_of_a_real_one(tmp_path):
    example = yaml.safe_load(block("json", "state_version"))

    with running(tmp_path) as server:
        answer = server.client.post(
            "/predict",
            params={"top_k": 1},
            headers={"X-Stream-Id": "gate-7"},
            content=(ROOT / "docs/frame.png").read_bytes(),
        ).json()

    assert answer.keys() == example.keys()
    assert answer["predictions"][0].keys() == example["predictions"][0].keys()
    assert answer["predictions"][0]["label"] == example["predictions"][0]["label"]
    probability = example["predictions"][0]["top"][0]["probability"]
    assert answer["predictions"][0]["top"][0]["probability"] == pytest.approx(probability, abs=1e-3)


def test_the_own_model_example_is_served(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(block("python", "my_models.py"))
    (tmp_path / "my_model.yaml").write_text(block("yaml", "my_models:small"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import my_models

    save_file(my_models.small().state_dict(), "small.safetensors")

    service = build(load_settings(Path("my_model.yaml")))

    assert service.model.labels == ("cat", "dog", "horse")
    assert service.model.backbone.spec.input_shape == (3, 64, 64)


def test_the_serve_lines_are_understood(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.yaml").write_text(block("yaml", "window_rows"))
    monkeypatch.chdir(tmp_path)
    for line in block("console", "tta-server serve --config").splitlines():
        words = shlex.split(line)
        for word in words[: words.index("tta-server")]:
            monkeypatch.setenv(*word.split("=", 1))

        assert main(["config", *words[words.index("serve") + 1 :]]) == 0

    printed = yaml.safe_load(capsys.readouterr().out.split("server:")[-1].join(["server:", ""]))
    assert (printed["adapter"]["settings"]["lr"], printed["engine"]["window_rows"]) == ("0.001", 32)
    assert printed["server"]["port"] == 9000


def test_every_make_target_it_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets


def test_every_file_it_links_to_exists():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]

    assert links
    assert all((ROOT / link).exists() for link in links), links


def test_the_demo_can_be_asked_for_help():
    done = subprocess.run([sys.executable, "-m", "tta_server", "demo", "--help"], capture_output=True, text=True)

    assert done.returncode == 0
    assert "--once" in done.stdout
