"""The house stays in order: files that fit in a head, one name for each type, no name that two things share."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "adapters", "tta_server")
MOST_LINES = 350
# Written by docs/write_answers.py: what the server says, for those who have no server.
TOLD_AGAIN = ("client/answers.py", "client/drift_answers.py")
ALIASES = {"np", "npt", "plt"}


def files(*folders: str) -> list[Path]:
    # By their real paths: two rooms are reached by links, too.
    return sorted({path.resolve() for folder in folders for path in (ROOT / folder).rglob("*.py")})


@pytest.mark.parametrize("folder", [*ROOMS, "tests", "load_tests", "k8s"])
def test_no_file_is_longer_than_can_be_read_at_once(folder):
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files(folder)}

    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


def types(tree: ast.Module) -> set[str]:
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    targets = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
               if isinstance(target, ast.Name)}  # fmt: skip
    return {name for name in classes | targets if name[0].isupper() and not name.isupper() and len(name) > 1}


def test_each_type_lives_in_one_file():
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for path in [each for each in files(*ROOMS) if not each.as_posix().endswith(TOLD_AGAIN)]:
        for name in types(ast.parse(path.read_text())):
            homes[name].add(str(path.relative_to(ROOT)))

    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_nothing_is_imported_under_another_name():
    renamed = [
        f"{path.relative_to(ROOT)}: {alias.name} as {alias.asname}"
        for path in files(*ROOMS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if alias.asname and alias.asname not in ALIASES
    ]

    assert renamed == []
