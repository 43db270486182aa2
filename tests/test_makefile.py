"""What the Makefile names is there."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_what_the_quick_tests_leave_out_exists_and_is_not_everything():
    planned = subprocess.run(["make", "-n", "test-quick"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    left_out = [ROOT / path for path in re.findall(r"--ignore=(\S+)", planned)]

    files = set((ROOT / "tests").rglob("test_*.py"))
    run = {path for path in files if not any(path.is_relative_to(one) for one in left_out)}

    assert left_out
    assert [path for path in left_out if not path.exists()] == []
    assert len(run) > len(files) / 2


def test_every_target_for_people_is_in_the_help():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert targets
    explained = re.findall(r"^make ([a-z-]+)", printed, re.MULTILINE)
    assert set(explained) == set(targets.group(1).split()) - {"help", "format", "clean"}


def test_what_the_tests_of_observability_run_exists():
    planned = subprocess.run(
        ["make", "-n", "test-observability"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    named = [ROOT / path for path in re.findall(r" (tests/\S+)", planned)]

    assert named
    assert [path for path in named if not path.exists()] == []
