"""What a job is sent: the working tree and the user's own modules, as one zip file, the same for the same files."""

import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pathspec import GitIgnoreSpec

from cluster.errors import ConfigError

LIMIT = 96 * 2**20  # bytes; Ray's job server refuses 100 MiB
NAMED = 5  # of the largest files, in the message
IGNORE_FILES = (".gitignore", ".rayignore")
# What runs and tools write. A working tree's own .gitignore may bring something back: `!/data/`.
LEFT_OUT = (
    *(".git/", ".venv/", "venv/", "__pycache__/", "*.egg-info/", ".*_cache/", ".hypothesis/"),
    *("/build/", "/dist/", "/data/", "/runs/", "/mlruns/", "/mlartifacts/", "/mlflow.db*"),
)
EPOCH = (1980, 1, 1, 0, 0, 0)


def tree_files(root: Path) -> dict[str, Path]:
    """The files of a working tree that a job is sent, by their path below ``root``.

    Left out are git's own folder, virtual environments, data, runs, MLflow's store, what a ``.gitignore`` or
    ``.rayignore`` names, and folders that are symbolic links.
    """
    own = root / ".gitignore"
    lines = own.read_text().splitlines() if own.is_file() else []
    specs = [(root, GitIgnoreSpec.from_lines([*LEFT_OUT, *lines]))]
    return {path.relative_to(root).as_posix(): path for path in sorted(_walk(root, specs))}


def _walk(folder: Path, specs: list[tuple[Path, GitIgnoreSpec]]) -> Iterator[Path]:
    for name in IGNORE_FILES:
        if (folder / name).is_file():
            specs = [*specs, (folder, GitIgnoreSpec.from_lines((folder / name).read_text().splitlines()))]
    for path in folder.iterdir():
        end = "/" if path.is_dir() else ""
        if any(spec.match_file(path.relative_to(top).as_posix() + end) for top, spec in specs):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _walk(path, specs)


def module_files(origin: Path) -> dict[str, Path]:
    """The files of a module or package of the user's own outside the working tree, by their path in the package.

    Args:
        origin: its ``.py`` file, a package's ``__init__.py``, or the folder of a package without one.
    """
    top = origin.parent if origin.name == "__init__.py" else origin
    if top.is_file():
        return {top.name: top}
    return {f"{top.name}/{inside}": path for inside, path in tree_files(top).items()}


def require_size(files: Mapping[str, Path]) -> int:
    """The size of all files in bytes.

    Raises:
        ConfigError: if that is too much to send, naming the largest.
    """
    sizes = {name: path.stat().st_size for name, path in files.items()}
    total = sum(sizes.values())
    if total > LIMIT:
        largest = sorted(sizes.items(), key=lambda item: -item[1])[:NAMED]
        raise ConfigError(
            f"expected a working tree of at most {_mib(LIMIT)}, received {_mib(total)}; name what a job does not need "
            "in .gitignore or .rayignore. The largest files: "
            + ", ".join(f"{name} ({_mib(size)})" for name, size in largest)
        )
    return total


def write_zip(files: Mapping[str, Path], target: Path) -> None:
    """Write a zip file whose bytes depend on names, contents and permissions alone, so that Ray knows it again."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in _with_mark(files):
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            mode = 0o644 if path is None else stat.S_IMODE(path.stat().st_mode)
            info.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(info, b"" if path is None else path.read_bytes())


def _with_mark(files: Mapping[str, Path]) -> Iterable[tuple[str, Path | None]]:
    """The files in order; an empty tree gets one empty file, since Ray unpacks no empty archive."""
    return sorted(files.items()) or [(".metaray", None)]


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
