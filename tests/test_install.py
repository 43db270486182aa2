"""What is installed is one package, which works beside folders of the user's own; a checkout works uninstalled."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

from tta_server.models import glyphs
from tta_server.models.sources import architectures

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "models", "adapters", "tta_server")  # what the Dockerfile copies, too
ROOMS = ("models", "adapters")
USERS_OWN = (*ROOMS, "tests", "api", "runtime", "settings", "guard", "storage", "streams")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the sources, links as links, without what earlier builds left."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    return build_wheel(checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that the wheel is installed to."""
    target = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--target", str(target), str(wheel))
    return target


@pytest.fixture
def project(tmp_path) -> Path:
    """A user's project, whose own packages have the names of our folders and must not be taken for them."""
    for name in USERS_OWN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit(f'{__name__} of the user was imported')\n")
    return tmp_path


def pip(*arguments: str) -> None:
    offline = ("--no-index", "--disable-pip-version-check", "--quiet")
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, *offline], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def build_wheel(source: Path, folder: Path) -> Path:
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (built,) = folder.glob("*.whl")
    return built


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def run(project: Path, library: Path, *command: str) -> str:
    """Return what a command prints that is started in the project, which comes first on the path."""
    environment = os.environ | {"PYTHONPATH": f"{project}{os.pathsep}{library}", "TTA_CONFIG": ""}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_rooms_and_their_data(wheel):
    tracked = {
        f"tta_server/{path.relative_to(ROOT)}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".safetensors", ".npz", ".md")
    }

    pages = {f"tta_server/api/page/{path.name}" for path in (ROOT / "tta_server/api/page").iterdir() if path.is_file()}

    assert tracked | pages <= files(wheel)
    assert {f"tta_server/models/glyphs/{path.name}" for path in (glyphs.WEIGHTS, glyphs.REFERENCE)} <= tracked


def test_nothing_but_the_package_is_installed(wheel):
    assert {re.sub(r"-[\d.]+\.dist-info$", "", name.split("/")[0]) for name in files(wheel)} == {"tta_server"}


def test_a_source_distribution_gives_the_same_wheel(checkout, wheel, tmp_path):
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=checkout, capture_output=True, check=True)
    (packed,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()

    assert files(build_wheel(unpacked, tmp_path / "built")) == files(wheel)


def test_it_is_the_installed_package_that_is_tried(project, installed):
    printed = run(project, installed, "-c", "import tta_server; print(tta_server.__file__)")

    assert Path(printed.strip()).is_relative_to(installed)


@pytest.mark.parametrize("command", [["-m", "tta_server"], ["bin/tta-server"]], ids=["module", "script"])
def test_the_commands_work_beside_folders_of_the_same_names(project, installed, command):
    command = [str(installed / part) if part.startswith("bin/") else part for part in command]

    assert run(project, installed, *command, "--version").strip() == importlib.metadata.version("tta-server")
    assert "architecture: glyphs" in run(project, installed, *command, "config")
    assert run(project, installed, *command, "models").splitlines() == list(architectures())


def test_the_library_example_works_beside_folders_of_the_same_names(project, installed):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "adapter.adapt" in block)

    printed = run(project, installed, "-c", f"{example}\nprint(tuple(labels.shape))")

    assert printed == "(16,)\n"


def test_models_are_found_the_embedded_one_and_one_in_the_folder_of_the_start(project, installed):
    factory = "from torch import nn\ndef small(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 3))\n"
    (project / "my_models.py").write_text(factory)
    code = (
        "from tta_server.models import load; print(*(len(load(name).labels) for name in ('glyphs', 'my_models:small')))"
    )
    elsewhere = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}  # as a console script is started

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=elsewhere, capture_output=True, text=True, timeout=120
    )

    assert (done.stdout, done.stderr) == ("36 3\n", "")


# What the client needs: httpx, and rich for `tta-server streams`, with what these need.
CLIENTS = ("httpx", "httpcore", "h11", "anyio", "sniffio", "certifi", "idna", "typing_extensions")
CLIENTS += ("rich", "markdown_it", "mdurl", "pygments", "tta_server")
CAMERA_HOST = """
    import http.server
    import json
    import sys
    import threading

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] not in {*sys.stdlib_module_names, *ALLOWED}:
                raise ModuleNotFoundError(f"no module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())

    class Stub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"streams": [], "next": None, "replica": ""}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    import tta_server.cli
    from tta_server.client import Client, list_streams, predict

    stub = http.server.HTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=stub.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{stub.server_port}"
    predict(b"an image")
    with Client(url) as client:
        print(client.ask(list_streams()))
    print(tta_server.cli.main(["streams", "ls", "--url", url]))
    try:
        import numpy
    except ImportError as error:
        print(error)
"""


def test_a_camera_host_needs_httpx_and_rich_beside_the_package(project, installed):
    code = textwrap.dedent(CAMERA_HOST).replace("ALLOWED", repr(CLIENTS))

    asked, *table, status, absent = run(project, installed, "-c", code).splitlines()

    assert (asked, status) == ("{'streams': [], 'next': None, 'replica': ''}", "0")
    assert "last verdict" in "".join(table)
    assert absent == "no module named 'numpy'"


def test_a_checkout_serves_as_a_library_where_nothing_else_is_installed(checkout, tmp_path):
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (absent,) = [one["forbidden_modules"] for one in contracts if one["name"].endswith("bare GPU machine")]
    code = f"""
        import importlib.metadata
        import sys

        found = importlib.metadata.version

        def version(name):
            if name == "tta-server":
                raise importlib.metadata.PackageNotFoundError(name)
            return found(name)

        importlib.metadata.version = version
        sys.modules |= dict.fromkeys({[*absent, "orjson", "uvicorn", "fsspec"]})

        import tta_server
        from tta_server import adapters, models

        model = models.load("glyphs")
        tent = adapters.create("tent")
        tent.init(model.backbone)
        print(tta_server.__version__, tta_server.__file__)
    """

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", str(checkout / "tta_server" / "__init__.py")]
