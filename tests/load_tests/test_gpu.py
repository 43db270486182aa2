import pytest
import torch

from load_tests.gpu import PARTS, main
from tta_server.adapters import names

SMALL = ["--device", "cpu", "--network", "glyphs", "--batches", "2", "--seconds", "0"]


def test_other_forms_of_the_forward_are_timed_and_compared(tmp_path):
    out = tmp_path / "gpu.md"

    assert main([*SMALL, "--parts", "forms of the forward", "memory", "--out", str(out)]) == 0

    header, row = [line.strip("| ").split(" | ") for line in out.read_text().splitlines() if line[:3] in ("| i", "| 2")]
    assert header[2:] == ["channels last", "bfloat16", "bfloat16, channels last", "ONNX Runtime"]
    assert all(float(cell.rpartition(", ")[2]) < 0.05 for cell in row[2:]), row
    assert "Only a GPU counts its memory." in out.read_text()


def test_every_part_that_a_cpu_has_runs_there(tmp_path):
    out, fewest = tmp_path / "gpu.md", ["--images", "2", "--streams", "2"]

    assert main([*SMALL, *fewest, "--parts", "as on a CPU", "steps", "streams", "--out", str(out)]) == 0

    agreement, _, rest = out.read_text().partition("**steps**")
    steps, _, stacked = rest.partition("**streams**")
    adapters = set(names())
    assert {label.partition(",")[0] for label, *_ in cells(agreement)} == adapters
    assert all(float(apart) <= 1e-3 and waits == "nowhere" for _, apart, waits in cells(agreement))
    assert {label.partition(",")[0] for label, *_ in cells(steps)} >= adapters
    assert "The plain forward takes" in steps
    assert [row[0] for row in cells(stacked)] == ["tent, ema: predict", "tent, ema: adapt"]
    assert all(float(row[5]) <= 1e-5 for row in cells(stacked))


def cells(table: str) -> list[list[str]]:
    """Return what is in a table's rows, but for its heading."""
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]


def test_a_part_that_fails_does_not_end_the_others(monkeypatch, capsys):
    def fails(_options):
        raise ValueError("no such\nkernel")

    monkeypatch.setitem(PARTS, "steps", fails)

    assert main([*SMALL, "--parts", "steps", "memory"]) == 1

    said = capsys.readouterr().out
    assert "steps failed: ValueError: no such kernel" in said
    assert said.index("steps failed") < said.index("Only a GPU")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_adapter_learns_on_a_gpu_what_it_learns_on_a_cpu():
    assert main(["--parts", "as on a CPU"]) == 0
