"""The notebook runs from its first cell to its last, and what its prose says is so.

Its cells are plain Python and run in this process: nbclient and ipykernel would bring 27 packages for one file.
"""

import json
import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from tests.pages import ROOT

NOTEBOOK = ROOT / "docs/notebooks/drift.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]


def sources(kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == kind]


def test_it_is_kept_without_what_it_printed_and_its_links_lead_somewhere():
    assert not [cell["id"] for cell in CELLS if cell.get("outputs") or cell.get("execution_count")]
    linked = re.findall(r"\]\(([^)\s]+)\)", "".join(sources("markdown")))
    assert linked
    assert not [link for link in linked if not (NOTEBOOK.parent / link).exists()]


def test_what_it_says_is_so(capsys):
    matplotlib.use("Agg")
    names: dict = {}
    try:
        for source in sources("code"):
            exec(compile(source, NOTEBOOK.name, "exec"), names)
    finally:
        plt.close("all")
        if process := names.get("process"):
            process.kill()
            process.wait()

    frozen, learning = (np.array(names["history"][stream]) for stream in ("frozen", "gate-7"))
    clean, noisy, learnt = [0, 1, 8], slice(2, 8), slice(3, 8)
    assert frozen[clean].tolist() == learning[clean].tolist()
    assert frozen[clean].max() < 0.1
    assert frozen[noisy].min() > 0.9
    assert learning[2] == frozen[2]  # what opens a domain
    assert learning[learnt].mean() < 0.45
    drift = names["drift"]
    assert (drift["state"], drift["because"]) == ("drift", "style")
    assert drift["estimated_accuracy"]["source"] < 0.1 < 0.3 < drift["estimated_accuracy"]["adapted"]
    assert (names["after"]["steps"], names["domains"], process.returncode) == (0, ["source"], 0)
    assert "gate-7@1" in capsys.readouterr().out
