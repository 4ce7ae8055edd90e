"""Configurations that come with metaray, by name: ``sinusoid_demo``, ``search/sinusoid``, ``compare/navigation``."""

import re
from pathlib import Path

from cluster.own_packages import HOME

FOLDER = Path(HOME) / "tune_configs"  # in a checkout and in an installed package alike
COMMANDS = {"search": "tune", "compare": "compare"}  # the command of the files of each subfolder; of others: train


def configurations() -> dict[str, Path]:
    """Files of the configurations that come with metaray, by name, in order: trainings, searches, comparisons."""
    paths = [path for part in ("", *COMMANDS) for path in sorted((FOLDER / part).glob("*.yaml"))]
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in paths}


def locate(name: Path | str, folder: Path | str = "") -> Path:
    """The file that a command's CONFIG stands for: one of the user's own, else one that comes with metaray.

    Args:
        name: a path, or the name of a configuration that comes with metaray, with or without ``tune_configs/`` and
            ``.yaml``.
        folder: what a relative path is relative to.

    Returns:
        The path of the file; ``folder / name`` if there is none.

    >>> locate("search/sinusoid").relative_to(FOLDER), locate("tune_configs/no_such.yaml").as_posix()
    (PosixPath('search/sinusoid.yaml'), 'tune_configs/no_such.yaml')
    """
    path = Path(folder) / name
    if path.is_file():
        return path
    short = Path(name).as_posix().removeprefix("tune_configs/").removesuffix(".yaml")
    return configurations().get(short, path)


def command_of(name: str) -> str:
    """The command that takes a configuration of this name.

    >>> command_of("sinusoid"), command_of("search/sinusoid")
    ('train', 'tune')
    """
    return COMMANDS.get(name.rpartition("/")[0], "train")


def description(path: Path) -> str:
    """The first sentence of the comment at the head of a file, empty without one.

    Args:
        path: a file of UTF-8 text.
    """
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return re.split(r"(?<=\.)\s+(?=[^\W\d])", " ".join(comment), maxsplit=1)[0]
