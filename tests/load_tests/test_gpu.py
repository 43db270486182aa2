import pytest
import torch

from load_tests.gpu import PARTS, main

SMALL = ["--device", "cpu", "--network", "glyphs", "--batches", "2", "--seconds", "0"]


def test_other_forms_of_the_forward_are_timed_and_compared(tmp_path):
    out = tmp_path / "gpu.md"

    assert main([*SMALL, "--parts", "forms of the forward", "memory", "--out", str(out)]) == 0

    header, row = [line.strip("| ").split(" | ") for line in out.read_text().splitlines() if line[:3] in ("| i", "| 2")]
    assert header[2:] == ["channels last", "bfloat16", "bfloat16, channels last", "ONNX Runtime"]
    assert all(float(cell.rpartition(", ")[2]) < 0.05 for cell in row[2:]), row
    assert "Only a GPU counts its memory." in out.read_text()


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
