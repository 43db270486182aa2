"""What tests look at in the folder of a store."""

from pathlib import Path

from tta_server.storage.store import Store


def reopened(store: Store, root: Path) -> Store:
    """Return the store as the next process finds it."""
    store.release()
    again = Store(str(root))
    again.claim()
    return again


def path_of(root: Path, name: str, id: str) -> Path:
    return root / "streams" / name / f"{id}.safetensors"


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name != "lock")
