"""What the metrics call by a name is explained by that name."""

import re

import pytest

from tests.pages import ROOT
from tta_server.telemetry.closed_sets import DROP_REASONS, RESTORE_CAUSES


@pytest.mark.parametrize("names", [RESTORE_CAUSES, DROP_REASONS], ids=["causes", "reasons"])
def test_the_operators_page_explains_every_cause_and_every_reason(names):
    page = (ROOT / "docs/operations.md").read_text()
    explained = {
        name for row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page, re.MULTILINE) for name in row.split(", ")
    }

    assert {f"`{name}`" for name in names} <= explained
