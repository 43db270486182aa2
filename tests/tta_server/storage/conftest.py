"""Stores in a folder, and in what stands for an object store."""

from collections.abc import Iterator

import fsspec
import pytest

from tta_server.storage.store import Store


@pytest.fixture(params=["disk", "memory"])
def url(request, tmp_path) -> str:
    """A local folder, and what stands for an object store."""
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        fsspec.filesystem("memory").pseudo_dirs[:] = [""]
        return "memory://bucket/tta"
    return str(tmp_path / "store")


@pytest.fixture
def store(url) -> Iterator[Store]:
    store = Store(url)
    store.claim()
    yield store
    store.release()


@pytest.fixture
def local(tmp_path) -> Iterator[Store]:
    store = Store(str(tmp_path / "store"))
    store.claim()
    yield store
    store.release()
