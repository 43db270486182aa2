"""ONNX Runtime, from 1.29 on, tells its makers of each process and model unless it is told not to."""

import subprocess
import sys
from pathlib import Path

USED = "import tta_server.models, onnxruntime"  # as a factory of a user's own may have it


def test_it_keeps_nothing_that_could_be_sent(tmp_path):
    # Nothing of this process's environment: where that names `CI`, it is silent in any case.
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}

    subprocess.run([sys.executable, "-c", USED], env=environment, check=True)

    assert not [*tmp_path.rglob("*")]
