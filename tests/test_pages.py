"""No page says what is not so: every block of code is tested, every link leads somewhere, every setting is there."""

import importlib.util
import itertools
import re
import shlex
import subprocess

import pytest

from docs.write_configuration import MARK, page
from tests.k8s.manifests import kubectl
from tests.pages import PAGES, ROOT, Block, blocks, text, tracked
from tta_server.cli import main
from tta_server.settings import Settings, StreamSettings

# Which test executes the blocks of a page, by language; in `test_readme.py` unless it says otherwise.
EXECUTED = {
    ("README.md", "python"): {"adapter.adapt": "the library snippet", "my_models.py": "five minutes"},
    ("README.md", "yaml"): {"my_models:small": "five minutes"},
    ("README.md", "bash"): {"/predict": "five minutes"},
    ("docs/api.md", "bash"): {"curl": "the curl lines of the api"},
    ("docs/api.md", "python"): dict.fromkeys(
        ("tritonclient", "tta_server.client", "import client", "requests"), "the curl lines of the api"
    ),
    ("docs/api.md", "yaml"): {"repository": "the curl lines of the api"},
    ("docs/api.md", "json"): {"state_version": "the example answer"},
    ("docs/security.md", "yaml"): {
        **dict.fromkeys(("trusted_proxies", "tls_client_ca"), "each setting exists"),
        "jwt_audience": "the commands of the page, in `test_tokens.py`",
    },
    ("docs/security.md", "bash"): {"jwt.encode": "the commands of the page, in `test_tokens.py`"},
    ("docs/deploy.md", "bash"): {"/predict": "the commands of the runbook"},
    ("docs/operations.md", "bash"): {"/v2/health/ready": "the commands of the runbook"},
    ("docs/runbook.md", "bash"): dict.fromkeys(("gate-7", "streams switch", "PATCH"), "the commands of the runbook"),
    ("docs/replicas.md", "yaml"): dict.fromkeys(("shared: true", "trusted_proxies"), "each setting exists"),
    ("docs/networks.md", "yaml"): {"width_mult": "the factory of the page, in `test_docs_networks.py`"},
    ("docs/configuration.md", "yaml"): {"window_rows": "the curl lines of the api, the serve lines"},
}
# Shell commands are checked here. What they need, and what therefore keeps a test from running all of each:
CONSOLE = {
    "make": "minutes, or a network",
    "python": "minutes of benchmark; the one line of the README runs in 'five minutes'",
    "docker": "an engine; `make image-test` builds the same images",
    "kubectl": "a cluster; `tests/k8s` looks at what is applied",
    **dict.fromkeys(("cp", "echo", "mkdir"), "files and keys of the reader's"),
    **dict.fromkeys(("export", "ray", "serve"), "a package of its own; `make test-ray` starts the same"),
    "tta-server": "weights and data sets that are not here, or a server that never ends",
}
# Drawings.
NOT_CODE = {"text", "mermaid"}
# This page's blocks are run by `test_docs_adapters.py`, beside the module that they are about.
ELSEWHERE = "docs/adapters.md"
# Files that the reader writes, or a command of the reader's.
READERS = {"my_adapters.py", "my_models.py", "export.json"}


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"{block.page}:{block.text[:30]!r}")
def test_each_block_of_code_is_tested(block: Block):
    marks = EXECUTED.get((block.page, block.language), {})

    elsewhere = block.page == ELSEWHERE or block.language in {"console", *NOT_CODE}
    assert elsewhere or any(mark in block.text for mark in marks)


LOOP = re.compile(r"for \w+ in \$\((.*)\); do|done")
KEPT = re.compile(r"(?:export )?[A-Z_]+=\$\((.*)\)")


def commands() -> list[str]:
    """Return what is typed, without the loop around it, or the variable that keeps what is printed."""
    lines = [line.strip() for block in blocks("console") for line in block.commands()]
    bare = [found[1] or "" if (found := LOOP.fullmatch(line) or KEPT.fullmatch(line)) else line for line in lines]
    return [each for line in bare if line for each in line.split(" | ")]


@pytest.mark.parametrize("line", commands())
def test_each_command_exists_with_its_options(line: str, capsys):
    words = shlex.split(line, comments=True)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    program, *rest = words
    assert program in CONSOLE

    if program == "make":
        assert re.search(rf"^{rest[0]}:", text("Makefile"), re.MULTILINE)
    elif program == "python" and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1])
    elif program == "tta-server":
        with pytest.raises(SystemExit) as ended:
            main([*itertools.takewhile(lambda word: not word.startswith("--"), rest), "--help"])
        known = re.findall(r"--[a-z-]+", capsys.readouterr().out)
        assert ended.value.code == 0
        assert {word for word in rest if word.startswith("--")} <= set(known)
    elif program == "kubectl":
        own = itertools.takewhile(lambda word: word != "--", rest)  # what follows is run in a pod
        helped = subprocess.run([kubectl(), *own, "--help"], capture_output=True, text=True, check=False)
        assert helped.returncode == 0, helped.stderr
    if program in ("docker", "kubectl"):
        files = [word for word in rest if word.startswith("k8s/")]
        assert [name for name in files if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "block", [each for each in blocks("yaml") if each.page != ELSEWHERE], ids=lambda block: block.text[:30]
)
def test_each_configuration_file_is_understood(block: Block, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(block.text)

    assert main(["config", "--config", str(path)]) == 0, capsys.readouterr().err


def anchors(page: str) -> set[str]:
    """Return what the headings of a page are called in links, as GitHub does it."""
    prose = re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[str, str]]:
    return [
        (page, link)
        for page in (*PAGES, "models/glyphs/MODEL_CARD.md", "tests/goldens/README.md")
        for link in re.findall(r"\]\(([^)\s]+)\)", text(page))
        if not link.startswith(("http:", "https:"))
    ]


@pytest.mark.parametrize(("page", "link"), links())
def test_each_link_leads_somewhere(page: str, link: str):
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page

    assert target.exists()
    assert not anchor or anchor in anchors(str(target.resolve().relative_to(ROOT)))


def test_each_page_is_linked_from_the_readme():
    found = {link.partition("#")[0] for page, link in links() if page == "README.md"}

    assert set(PAGES) - {"README.md"} <= found


def test_each_setting_says_what_it_means():
    sections = [type(field.default) for field in Settings.model_fields.values()]

    silent = [
        f"{section.__name__}.{name}"
        for section in [*sections, StreamSettings]
        for name, field in section.model_fields.items()
        if not field.description
    ]

    assert not silent


def test_the_configuration_page_is_what_the_code_says():
    written = text("docs/configuration.md")

    assert MARK in written
    assert written == page(written), "run python -m docs.write_configuration"


def test_each_setting_of_a_section_is_on_its_page():
    written = text("docs/configuration.md")

    for name, field in Settings.model_fields.items():
        part = written.partition(f"\n## `{name}`\n")[2].partition("\n## ")[0]
        assert {key for key in type(field.default).model_fields if f"| `{key}` |" not in part} == set()


def test_each_test_that_the_design_names_exists():
    defined = {
        name
        for path in ROOT.glob("tests/**/test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }

    named = set(re.findall(r"`(test_\w+)`", text("DESIGN.md")))

    assert len(named) > 10
    assert named <= defined


@pytest.mark.parametrize("page", PAGES)
def test_each_file_that_a_page_names_exists(page: str):
    prose = re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)

    named = set(re.findall(r"`([\w./-]+\.(?:py|toml|json|npz|md))`", prose))

    assert {name for name in named - READERS if not any(f"/{path}".endswith(f"/{name}") for path in tracked())} == set()


def reasons() -> list[str]:
    """Return why a server is not ready, as the page for operators has it."""
    part = text("docs/operations.md").partition("\n## Not ready\n")[2].partition("\n## ")[0]
    return [said for row in re.findall(r"^\| (`.*?) \| ", part, re.MULTILINE) for said in re.findall(r"`(.*?)`", row)]


def test_the_page_has_reasons_for_not_being_ready():
    assert len(reasons()) >= 9


@pytest.mark.parametrize("said", reasons())
def test_each_reason_for_not_being_ready_is_one_that_the_code_has(said):
    code = " ".join(path.read_text() for path in (ROOT / "tta_server").glob("**/*.py"))

    for part in said.split("..."):  # which is for what differs
        assert part.strip(" ()") in code
