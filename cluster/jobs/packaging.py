"""Packaging of a job: the working tree and the user's own modules in one zip file, the same for the same files."""

import os
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from cluster.errors import ConfigError
from cluster.jobs.left_out import secret_look, secret_name

LIMIT = 96 * 2**20  # bytes; Ray's job server refuses 100 MiB
NAMED = 5  # of the largest files, in the message
IGNORE_FILES = (".gitignore", ".rayignore")
# What runs and tools write. A working tree's own .gitignore may bring something back: `!/data/`.
LEFT_OUT = (
    *(".git/", ".venv/", "venv/", "__pycache__/", "*.egg-info/", ".*_cache/", ".hypothesis/"),
    *("/build/", "/dist/", "/data/", "/runs/", "/mlruns/", "/mlartifacts/", "/mlflow.db*"),
)
EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The files of a folder that a job is sent.

    Attributes:
        files: where each file is here, by its path below the folder.
        left_out: why a file is not sent although nothing ignores it, by its path.
    """

    files: dict[str, Path]
    left_out: dict[str, str]

    def below(self, name: str) -> "Tree":
        """The same, by paths that begin with the name of a folder."""
        return Tree(
            files={f"{name}/{inside}": path for inside, path in self.files.items()},
            left_out={f"{name}/{inside}": reason for inside, reason in self.left_out.items()},
        )


def tree(root: Path) -> Tree:
    """The files of a working tree that a job is sent.

    Passed over are git's own folder, virtual environments, data, runs, MLflow's store, and what a ``.gitignore`` or
    ``.rayignore`` names. Left out and listed are files with secrets, by name or by look, unless ``.rayignore`` in
    ``root`` brings one back by its whole path (``!/tests/server.pem``), and links to folders and to nothing.

    Raises:
        ConfigError: if a symbolic link leads out of the tree.
    """
    own = root / ".gitignore"
    lines = own.read_text().splitlines() if own.is_file() else []
    specs = [(root, GitIgnoreSpec.from_lines([*LEFT_OUT, *lines]))]
    sorted_out, brought_back = Tree(files={}, left_out={}), _brought_back(root)
    leading_out = []
    for path in sorted(_walk(root, specs)):
        name = path.relative_to(root).as_posix()
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(os.path.realpath(root)):
            leading_out.append(f"{name} -> {target}")
        elif reason := _reason(path, target, root, name, brought_back):
            sorted_out.left_out[name] = reason
        else:
            sorted_out.files[name] = target
    if leading_out:
        raise ConfigError(
            f"expected links to files of {root} alone, received {', '.join(leading_out[:NAMED])}"
            f"{' and others' if len(leading_out) > NAMED else ''}: a job is sent nothing from elsewhere; copy what it "
            "needs into the tree, or name the link in .rayignore"
        )
    return sorted_out


def _reason(path: Path, target: Path, root: Path, name: str, brought_back: frozenset[str]) -> str | None:
    """Why a file or a link of a tree is left out; None if it is sent."""
    if target.is_dir():
        return "is a link to a folder"
    if not target.is_file():
        return "is a link to nothing"
    if name in brought_back:
        return None
    inside = target.relative_to(os.path.realpath(root)).as_posix()
    if secret_name(name) or (path.is_symlink() and secret_name(inside)):
        return "has the name of a file with secrets"
    look = secret_look(target) if target.stat().st_size <= LIMIT else None  # what is larger is refused anyway
    return f"holds {look}" if look else None


def _brought_back(root: Path) -> frozenset[str]:
    """Files that ``.rayignore`` says are to be sent, each by its whole path: a pattern would bring back too much."""
    path = root / ".rayignore"
    lines = path.read_text().splitlines() if path.is_file() else []
    return frozenset(line[1:].strip().removeprefix("/") for line in lines if line.startswith("!"))


def _walk(folder: Path, specs: list[tuple[Path, GitIgnoreSpec]]) -> Iterator[Path]:
    """Files, and symbolic links to anything, that no pattern names."""
    for name in IGNORE_FILES:
        if (folder / name).is_file():
            specs = [*specs, (folder, GitIgnoreSpec.from_lines((folder / name).read_text().splitlines()))]
    for path in folder.iterdir():
        end = "/" if path.is_dir() else ""
        if any(spec.match_file(path.relative_to(top).as_posix() + end) for top, spec in specs):
            continue
        if path.is_symlink() or path.is_file():
            yield path
        elif path.is_dir():
            yield from _walk(path, specs)


def module_files(origin: Path) -> Tree:
    """The files of a module or package of the user's own outside the working tree, by their path in the package.

    Args:
        origin: its ``.py`` file, a package's ``__init__.py``, or the folder of a package without one.

    Raises:
        ConfigError: if a symbolic link leads out of the package.
    """
    top = origin.parent if origin.name == "__init__.py" else origin
    if top.is_file():
        look = secret_look(top)
        return Tree(files={} if look else {top.name: top}, left_out={top.name: f"holds {look}"} if look else {})
    return tree(top).below(top.name)


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
    """Write a zip file whose bytes depend on names, contents and permissions alone, so that Ray can reuse an upload.

    Args:
        files: path of each file by its name in the archive.
        target: the zip file.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in _with_mark(files):
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            mode = 0o644 if path is None else stat.S_IMODE(path.stat().st_mode)
            info.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(info, b"" if path is None else _contents(path))


def _contents(path: Path) -> bytes:
    """The contents of a file that has not become a symbolic link since it was looked at."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream:
        return stream.read()


def _with_mark(files: Mapping[str, Path]) -> Iterable[tuple[str, Path | None]]:
    """The files in order; an empty tree gets one empty file, since Ray unpacks no empty archive."""
    return sorted(files.items()) or [(".metaray", None)]


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
