"""What the README and the pages of docs/ tell people to type works as it stands there.

`test_pages.py` sees to it that no block of code is left out.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.pages import ROOT, WRITTEN_ADDRESS, block, blocks, text
from tests.server import running
from tta_server.app import build
from tta_server.cli import main
from tta_server.settings_file import load_settings

FRAME = ROOT / "docs/frame.png"


def run_curl(line: str, url: str, folder: Path) -> str:
    """Run a line with curl in `folder`, and return what it printed."""
    assert shutil.which("curl"), "curl is not installed; 'make test' installs it"
    written = line.replace(WRITTEN_ADDRESS, url).replace("@docs/", f"@{ROOT}/docs/")
    words = [*shlex.split(written), "--fail-with-body", "--silent"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def run(line: str) -> None:
    """Run a line that starts with `python` or `tta-server`, in the working folder."""
    programs = {"python": [sys.executable], "tta-server": [sys.executable, "-m", "tta_server"]}
    program, *rest = shlex.split(line, comments=True)
    done = subprocess.run([*programs[program], *rest], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_the_library_snippet_runs_and_learns():
    names: dict = {}

    exec(compile(block("python", "adapter.adapt"), "README.md", "exec"), names)

    assert names["labels"].shape == (16,)
    initial = names["adapter"].init(names["backbone"])
    assert any(not torch.equal(initial[name], tensor) for name, tensor in names["state"].items())


def test_the_curl_lines_of_the_api_are_answered_by_the_server_that_the_configuration_example_describes(tmp_path):
    lines = [line for each in blocks("bash", "docs/api.md") for line in each.commands()]
    assert len(lines) >= 16
    examples = blocks("python", "docs/api.md")
    config = yaml.safe_load(block("yaml", "window_rows"))
    config["domains"] = {"max": 16}
    config["repository"] = yaml.safe_load(block("yaml", "second:"))["repository"]
    config["storage"] = {"url": str(tmp_path / "kept")}  # not in this folder
    config["server"] = config.get("server", {}) | {"grpc_port": 0}

    with running(tmp_path, config, forked=False) as server:
        for line in lines:
            assert run_curl(line, server.url, tmp_path) or " -o " in line
        address = server.url.removeprefix("http://")
        grpc_port = re.search(r"grpc\W+port (\d+)", (tmp_path / "server.log").read_text())[1]
        names: dict = {}
        for example in examples:
            code = example.text.replace("127.0.0.1:8000", address).replace("docs/", f"{ROOT}/docs/")
            code = code.replace("127.0.0.1:8001", f"127.0.0.1:{grpc_port}")
            exec(compile(code, example.page, "exec"), names)

    assert names["found"]["predictions"][0]["label"] == names["again"]["predictions"][0]["label"] == "Z"
    assert names["labelled"]["counted"] == 1
    assert names["two"]["source"]["label"]
    assert names["domains"][:2] == ["source", "gate-7@1"]
    assert [each["verdict"] for each in names["entries"]].count("restore") == 1
    assert names["response"].json()["predictions"][0]["label"] == "Z"
    assert (tmp_path / "gate-7.safetensors").stat().st_size
    assert names["answer"].as_numpy("probabilities").shape == names["called"].as_numpy("probabilities").shape == (2, 36)


def test_the_example_answer_has_the_fields_of_a_real_one(tmp_path):
    example = yaml.safe_load(block("json", "state_version"))

    with running(tmp_path) as server:
        answer = server.client.post(
            "/predict",
            params={"top_k": 1},
            headers={"X-Stream-Id": "gate-7"},
            content=FRAME.read_bytes(),
        ).json()

    assert answer.keys() == example.keys()
    assert answer["predictions"][0].keys() == example["predictions"][0].keys()
    assert answer["predictions"][0]["label"] == example["predictions"][0]["label"]
    probability = example["predictions"][0]["top"][0]["probability"]
    assert answer["predictions"][0]["top"][0]["probability"] == pytest.approx(probability, abs=1e-3)


def test_five_minutes_lead_to_a_calibrated_model_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(block("python", "my_models.py"))
    (tmp_path / "my_model.yaml").write_text(block("yaml", "my_models:small"))
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "horse"):
        (tmp_path / "source_images" / name).mkdir(parents=True)
        for place in range(90):
            image = Image.fromarray(rng.integers(0, 256, (80, 96, 3), dtype=np.uint8))
            image.save(tmp_path / "source_images" / name / f"{place}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    curls = [line for each in blocks("bash", "README.md") for line in each.commands()]
    assert len(curls) >= 2

    run(block("console", "save_file"))
    with running(tmp_path, yaml.safe_load(Path("my_model.yaml").read_text())) as server:
        answers = [run_curl(line, server.url, tmp_path) for line in curls]
    assert all(answers)
    run(block("console", "calibrate --config"))
    assert (tmp_path / "small.reference.safetensors").is_file()

    service = build(load_settings(Path("my_model.yaml")))

    assert service.served.model.labels == ("cat", "dog", "horse")
    assert service.served.model.backbone.spec.input_shape == (3, 64, 64)


def test_the_serve_lines_are_understood(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.yaml").write_text(block("yaml", "window_rows"))
    monkeypatch.chdir(tmp_path)
    lines = [line for line in block("console", "--port 9000").splitlines() if " serve " in line]
    assert len(lines) >= 2
    for line in lines:
        words = shlex.split(line)
        for word in words[: words.index("tta-server")]:
            monkeypatch.setenv(*word.split("=", 1))

        assert main(["config", *words[words.index("serve") + 1 :]]) == 0

    printed = yaml.safe_load(capsys.readouterr().out.split("server:")[-1].join(["server:", ""]))
    assert (printed["adapter"]["settings"]["lr"], printed["engine"]["window_rows"]) == ("0.001", 32)
    assert printed["server"]["port"] == 9000


def test_every_make_target_it_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))

    assert set(re.findall(r"make ([a-z-]+)", text("README.md"))) <= targets


def test_the_demo_can_be_asked_for_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--help"])

    assert ended.value.code == 0
    assert "--once" in capsys.readouterr().out
