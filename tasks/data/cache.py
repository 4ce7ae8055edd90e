"""Opening a store by path or URI; remote stores are copied to this machine's disk once."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from meta.engine.machine import cache_folder
from tasks.data.manifest import SCHEMA
from tasks.data.places import scratch
from tasks.data.prepare import prepare
from tasks.data.remote import RemoteStore, is_remote
from tasks.data.store import FolderStore, ImageStore
from tasks.data.tables.manifest import AnyManifest
from tasks.data.tables.store import TableStore

GLYPHS = "glyphs"


def open_store(root: str) -> ImageStore:
    """Returns a store, open for reading.

    Args:
        root: a folder; a URI, whose store is copied into the cache at this machine's first request for it;
            or ``glyphs``, a store that is made in the cache on first use. If several processes request a store at the
            same time, one makes the copy and the others wait for it.

    Raises:
        DataError: if there is no store, it is damaged, or of another schema version.
    """
    if root == GLYPHS:
        from tasks.data.sources import glyphs  # imports matplotlib, which nobody else needs

        def draw(folder: Path) -> None:
            prepare(glyphs.raw_data(), str(folder))

        # Other versions of these may draw other pixels.
        drawn_by = "-".join(f"{library}-{version(library)}" for library in ("matplotlib", "pillow"))
        return ImageStore(_cached(f"glyphs-{glyphs.GLYPHS_VERSION}-schema-{SCHEMA}-{drawn_by}", draw))
    if not is_remote(root):
        return ImageStore(Path(root))
    remote = RemoteStore(root)
    manifest = remote.manifest()
    return ImageStore(_cached(manifest.fingerprint, lambda folder: remote.download(folder, manifest)))


def open_table(root: str) -> TableStore:
    """Returns a store of tables, open for reading.

    Args:
        root: a folder; or a URI, whose store is copied into the cache at this machine's first request for it.

    Raises:
        DataError: if there is no store, it is damaged, or of another kind or schema version.
    """
    if not is_remote(root):
        return TableStore(Path(root))
    remote = RemoteStore(root)
    manifest = remote.manifest()
    return TableStore(_cached(manifest.fingerprint, lambda folder: remote.download(folder, manifest)))


def manifest_of(root: str, *, verify: bool = False) -> AnyManifest:
    """Returns a store's manifest; a remote store is not copied for that.

    Args:
        root: as for :func:`open_store`.
        verify: read every file of the store, where it lies, and compare its checksum with the manifest's.

    Raises:
        DataError: as :func:`open_store`, or if a file has another checksum.
    """
    if not is_remote(root):
        store = open_store(root) if root == GLYPHS else FolderStore(Path(root), "a")
        if verify:
            store.verify()
        return store.manifest
    remote = RemoteStore(root)
    manifest = remote.manifest()
    if verify:
        remote.verify(manifest)
    return manifest


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    """Returns the folder of the cached store ``name``.

    It is made by one process, under a lock, and renamed into place when complete.
    """
    folder = cache_folder() / "stores" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{name}.lock")):
            if not folder.exists():
                with scratch(folder) as partial:
                    make(partial / "store")
                    (partial / "store").rename(folder)
    return folder
