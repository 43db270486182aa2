"""The command from end to end."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tta_server.evaluate.small import cifar, configuration, folder
from tta_server import adapters
from tta_server.evaluate import campaign
from tta_server.evaluate.evaluate_command import add_arguments, run

ROOT = Path(__file__).parents[3]
FILES = {"arguments.json", "report.txt", "report.json", "report.csv", "results"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("TTA_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def given(tmp_path) -> list[str]:
    """Options for a small model and small data."""
    config = configuration(tmp_path / "config.yaml")
    data = cifar(tmp_path / "data")
    out = ["--out", str(tmp_path / "out"), "--batch", "4"]
    return ["--config", str(config), "--data", str(data), *out]


def evaluate(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def numbers(out: Path) -> dict:
    """Return the report without what a clock or the system measured."""
    stored = json.loads((out / "report.json").read_text())["protocols"]
    measured = ("answer_ms", "learn_ms", "peak_bytes", "elapsed_s")
    return {
        protocol: [{name: value for name, value in line.items() if name not in measured} for line in lines]
        for protocol, lines in stored.items()
    }


@pytest.fixture
def counted(monkeypatch) -> list[tuple[str, str]]:
    """Which adapters are really run under which protocols."""
    calls: list[tuple[str, str]] = []
    original = campaign.run

    def counting(bench, adapter, label, protocol, phases, progress):
        calls.append((protocol, label))
        return original(bench, adapter, label, protocol, phases, progress)

    monkeypatch.setattr(campaign, "run", counting)
    return calls


def test_every_protocol_gives_a_table_a_picture_and_files(given, tmp_path, capsys):
    status = evaluate(*given, "--adapters", "bn", "--settings", "tent:stats=batch", "--protocol", "all")

    out, printed = tmp_path / "out", capsys.readouterr().out
    assert status == 0
    protocols = ["continual", "reset", "gradual", "mixed", "correlated", "single"]
    assert {path.name for path in out.iterdir()} == FILES | {f"heatmap-{protocol}.png" for protocol in protocols}
    stored = numbers(out)
    assert list(stored) == protocols
    for protocol, lines in stored.items():
        assert [line["adapter"] for line in lines] == ["source", "bn", "tent stats=batch"]
        assert [line["status"] for line in lines][:2] == ["ok", "ok"]
        assert lines[2]["status"] == ("refused" if protocol == "single" else "ok")
        assert f"{protocol}: error in %" in printed
    assert "tent stats=batch: refused: batch statistics need at least 2 images" in printed
    assert "the layout of CIFAR-10-C, 12 images a domain" in printed
    assert "without shot_noise, " in printed


def test_what_is_finished_is_not_run_again_and_the_tables_are_equal(given, tmp_path, counted):
    command = (*given, "--adapters", "bn,tent", "--protocol", "continual,mixed")
    evaluate(*command)
    before, times = numbers(tmp_path / "out"), (tmp_path / "out" / "report.json").read_text()
    assert len(counted) == 6

    evaluate(*command, "--resume")

    assert len(counted) == 6
    assert numbers(tmp_path / "out") == before
    assert (tmp_path / "out" / "report.json").read_text() == times  # measured once, too
    evaluate(*command, "--adapters", "bn", "--settings", "bn:", "tent:lr=0.1")
    assert counted[6:] == [("continual", "tent lr=0.1"), ("mixed", "tent lr=0.1")]
    evaluate(*command, "--no-resume")
    assert len(counted) == 14
    assert numbers(tmp_path / "out") == before


def test_numbers_are_of_the_images_that_are_there(given, tmp_path):
    pictures = folder(tmp_path / "pictures", each=6)
    command = (*given, "--data", str(pictures), "--adapters", "source", "--protocol", "mixed", "--images", "10")
    evaluate(*command)
    times = {path: path.stat().st_mtime_ns for path in pictures.glob("*/*.png")}
    folder(pictures, each=6, names=("dog", "cat", "bee", "ant"))

    with pytest.raises(ValueError, match="holds results of other arguments"):
        evaluate(*command)
    for path, time in times.items():  # as if nothing had told
        os.utime(path, ns=(time, time))
    evaluate(*command, "--no-resume")
    evaluate(*command, "--out", str(tmp_path / "fresh"))

    assert numbers(tmp_path / "out") == numbers(tmp_path / "fresh")


def test_an_interrupted_evaluation_goes_on_where_it_stopped(given, tmp_path, counted, monkeypatch):
    command = (*given, "--adapters", "bn,tent")
    whole = tmp_path / "whole"
    evaluate(*command, "--out", str(whole))
    counted.clear()
    counting = campaign.run

    def interrupted(bench, adapter, label, protocol, phases, progress):
        if label == "tent":
            raise KeyboardInterrupt
        return counting(bench, adapter, label, protocol, phases, progress)

    monkeypatch.setattr(campaign, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(*command)
    monkeypatch.setattr(campaign, "run", counting)

    evaluate(*command)

    assert [label for _, label in counted] == ["source", "bn", "tent"]
    assert numbers(tmp_path / "out") == numbers(whole)


def test_other_arguments_need_another_folder(given):
    evaluate(*given, "--adapters", "source")

    with pytest.raises(ValueError, match="seed was 0, now is 1"):
        evaluate(*given, "--adapters", "source", "--seed", "1")


def test_data_without_clean_images_are_said_to_have_none(given, tmp_path, capsys):
    (tmp_path / "data" / "clean.npy").unlink()

    evaluate(*given, "--adapters", "source")

    assert "so there are no clean phases" in capsys.readouterr().out
    assert numbers(tmp_path / "out")["continual"][0]["clean_again"] is None
    with pytest.raises(ValueError, match="no clean images"):
        evaluate(*given, "--adapters", "source", "--clean", "--out", str(tmp_path / "other"))


def test_images_that_cannot_be_read_stop_it_together_or_are_left_out_and_counted(given, tmp_path, capsys):
    root = folder(tmp_path / "pictures", each=5)
    for name in ("ant/1.png", "dog/3.png"):
        (root / name).write_bytes(b"no picture")
    options = (*given, "--data", str(root), "--adapters", "source")

    with pytest.raises(ValueError, match=r"2 of 20 images cannot be read(.|\n)*ant/1\.png(.|\n)*dog/3\.png"):
        evaluate(*options, "--images", "all")
    assert evaluate(*options, "--images", "6", "--skip-broken", "--out", str(tmp_path / "other")) == 0

    printed = capsys.readouterr().out
    assert "a folder for each class, 6 of 18 images a domain" in printed
    assert "left out 2 images that cannot be read: 'ant/1.png', 'dog/3.png'" in printed


@pytest.mark.parametrize(("images", "said"), [("4", "4 of 12"), ("12", "12"), ("all", "12")])
def test_the_number_of_images_that_is_printed_is_the_number_shown(given, tmp_path, capsys, images, said):
    evaluate(*given, "--adapters", "source", "--images", images)

    assert f"CIFAR-10-C, {said} images a domain" in capsys.readouterr().out
    (line,) = numbers(tmp_path / "out")["continual"]
    assert {step["images"] for step in line["steps"]} == {int(said.split()[0])}


def test_published_images_of_one_severity_are_enough(given, tmp_path, capsys):
    folder(tmp_path / "published" / "fog" / "3", each=2)

    assert evaluate(*given, "--data", str(tmp_path / "published"), "--adapters", "source", "--severity", "3") == 0

    assert "ImageNet-C, 8 images a domain" in capsys.readouterr().out


def test_clean_has_tables_of_its_own(given, tmp_path):
    evaluate(*given, "--adapters", "bn", "--protocol", "correlated", "--clean")

    lines = numbers(tmp_path / "out")["correlated-clean"]
    assert lines[0]["part 1"] == lines[0]["part 2"] == lines[0]["clean"]  # the frozen model, on the same 12 images
    assert (tmp_path / "out" / "heatmap-correlated-clean.png").is_file()


def test_a_broken_adapter_fails_the_command_but_not_the_others(given, tmp_path, monkeypatch):
    def breaks(*_: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(_adapt_of("bn"), breaks)

    status = evaluate(*given, "--adapters", "bn,tent")

    lines = numbers(tmp_path / "out")["continual"]
    assert status == 1
    assert [line["status"] for line in lines] == ["ok", "failed", "ok"]
    assert lines[1]["reason"] == "RuntimeError: out of order"


def _adapt_of(name: str) -> str:
    cls = type(adapters.create(name))
    return f"{cls.__module__}.{cls.__qualname__}.adapt"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "steady"], "unknown protocol 'steady'"),
        (["--protocol", ","], "unknown protocol ''"),
        (["--images", "13"], "images is 13, and the data have 12"),
        (["--images", "some"], "images must be a number or 'all', got 'some'"),
        (["--batch", "1"], "batch must be at least 2"),
        (["--delta", "0"], "delta must be positive"),
        (["--delta", "inf"], "delta must be positive and finite"),
        (["--images", "1"], "images must be at least 2"),
        (["--domains", "0"], "domains must be at least 1"),
        (["--domains", "4"], "no reference bundle with styles"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--adapters", "tant"], "unknown adapter 'tant'"),
        (["--data", "nowhere"], "does not exist"),
        (["--model", "resnet51"], "unknown model 'resnet51'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(given, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*given, "--adapters", "source", *options)
    assert not (tmp_path / "out").exists()


def test_it_runs_on_the_embedded_model_as_a_command_of_its_own(tmp_path):
    code = (
        "import argparse; from tta_server.evaluate.evaluate_command import add_arguments, run; "
        "parser = argparse.ArgumentParser(); add_arguments(parser); raise SystemExit(run(parser.parse_args()))"
    )
    options = ["--adapters", "bn", "--images", "8", "--batch", "8", "--out", str(tmp_path), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *options],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "jpeg" in done.stdout
    lines = numbers(tmp_path)["continual"]
    assert [line["images"] for line in lines] == [8 * 17] * 2


def test_guarded_results_are_not_mixed_with_others(given, tmp_path):
    arguments = [*given, "--adapters", "tent", "--images", "8"]
    assert evaluate(*arguments, "--guard") == 0

    assert json.loads((tmp_path / "out" / "arguments.json").read_text())["guard"] is True
    with pytest.raises(ValueError, match="guard"):
        evaluate(*arguments)


def test_streams_that_tell_domains_apart_are_compared_too(tmp_path):
    options = ["--adapters", "bn", "--images", "16", "--batch", "16", "--domains", "8", "--device", "cpu"]
    assert evaluate(*options, "--out", str(tmp_path)) == 0

    source, bn = numbers(tmp_path)["continual"]
    assert json.loads((tmp_path / "arguments.json").read_text())["domains"] == 8
    assert bn["clean"] == source["clean"]  # at home the frozen model answers
    assert bn["clean_again"] == source["clean_again"]
    assert bn["mean"] < source["mean"]
