"""The command that a job is to run, seen from where it is submitted: its name, and the files that it reads."""

import importlib.util
import os
import re
import shlex
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from cluster.config.credentials import has_credentials, without_credentials
from cluster.config.overrides import with_overrides
from cluster.config.schema import read_yaml
from cluster.config.shipped import locate
from cluster.errors import ConfigError
from cluster.jobs.packaging import Tree, module_files, require_size, tree
from cluster.runs.folder import new_name, require_name

CONTINUED = ("train", "tune", "compare")  # commands that go on under a name where they were interrupted
OWN = ("benchmarks", "cluster", "meta", "tasks")  # packages that come with metaray, on the cluster too
_IMPORT_PATH = re.compile(r"([A-Za-z_]\w*)(?:\.\w+)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Job:
    """A command to be sent to a cluster.

    Attributes:
        name: of the job, and of the run or search where the command makes one.
        entrypoint: the command line.
        files: what the working tree holds there, by name, and where each file is here.
        size: of the files, in bytes.
        left_out: why files that nothing ignores are not sent, by name: secrets, and links to folders or nothing.
    """

    name: str
    entrypoint: str
    files: Mapping[str, Path]
    size: int
    left_out: Mapping[str, str] = field(default_factory=dict)


def prepare(words: Sequence[str], name: str | None, root: Path) -> Job:
    """Check a command, name it, and collect what it needs.

    Args:
        words: the command as it is typed after ``metaray``.
        name: of the job, or None for a new one.
        root: the working tree.

    Raises:
        ConfigError: if it names files that a job does not have, or secrets; if the working tree is too large.
    """
    if name is not None:
        require_name(name)
    require_no_secrets(words)
    sent = tree(root)
    words = [words[0], *(_inside(word, root, sent) for word in words[1:])]
    config = next((Path(word) for word in words[1:] if word.endswith((".yaml", ".yml")) and "=" not in word), None)
    name = name or new_name(
        re.sub(r"[^A-Za-z0-9._-]+", "-", config.stem if config else words[0]).lstrip("._-") or "job"
    )
    if words[0] in CONTINUED:
        options = {word.partition("=")[0] for word in words}
        if "--name" in options:
            raise ConfigError(f"expected --name before '--', where it names the job too, received it after {words[0]}")
        if "--resume" not in options:
            words = [words[0], "--name", name, *words[1:]]
        for origin in _own_modules(config, words, root):
            module = module_files(origin)
            sent.files.update(module.files)
            sent.left_out.update(module.left_out)
    return Job(name, "exec metaray " + shlex.join(words), sent.files, require_size(sent.files), sent.left_out)


def require_no_secrets(words: Sequence[str]) -> None:
    """Refuse a command with passwords, keys or tokens in it.

    Raises:
        ConfigError: naming the word, without the secret.
    """
    pairs = [f"{one} {two}" for one, two in pairwise(words)]
    for text in (*words, *pairs):
        if has_credentials(text):
            raise ConfigError(
                f"expected a command without secrets, received '{without_credentials(text)}': whoever may use the "
                "cluster sees it; put the secret into an environment variable and name that with --env"
            )


def _inside(word: str, root: Path, sent: Tree) -> str:
    """A word of the command with a path into the working tree made relative to it.

    An absolute folder elsewhere is left as it is: it may be one that the cluster shares.
    """
    before, equals, value = word.rpartition("=")
    path = root / value
    known = os.path.exists(path)  # noqa: PTH110 - Path.exists raises where a text is too long for a path
    if not known or value.startswith("-") or (path.is_dir() and "/" not in value):
        return word
    within = path.resolve().is_relative_to(root.resolve())
    if not within and path.is_dir() and Path(value).is_absolute():
        return word
    if not within:
        raise ConfigError(
            f"expected a file inside the working tree {root}, received '{value}': a job has nothing else of this "
            "machine; copy it into the tree, or submit from the folder that holds it"
        )
    inside = path.resolve().relative_to(root.resolve()).as_posix()
    if inside in sent.left_out:
        raise ConfigError(
            f"'{value}' is not sent to the cluster: it {sent.left_out[inside]}; take the secret out and give it with "
            f"--env, or, if it is none, add the line '!/{inside}' to .rayignore"
        )
    if not any(name == inside or inside == "." or name.startswith(f"{inside}/") for name in sent.files):
        raise ConfigError(
            f"'{value}' is not sent to the cluster: it is data, a run, or named in .gitignore. Give the place where "
            "the cluster has it, as an absolute path or a URI, or bring it back with '!' in .gitignore"
        )
    return f"{before}{equals}{inside}"


def _own_modules(config: Path | None, words: Sequence[str], root: Path) -> Iterator[Path]:
    """Paths of the user's own modules that the command's configuration names and that the cluster does not have."""
    installed = [Path(path).resolve() for path in set(sysconfig.get_paths().values())]
    for module in sorted(_named_modules(config, words, root) - set(OWN) - sys.stdlib_module_names):
        spec = importlib.util.find_spec(module)
        places = [] if spec is None else [spec.origin] if spec.has_location else spec.submodule_search_locations or []
        for origin in (Path(place).resolve() for place in places if place):
            known = any(origin.is_relative_to(path) for path in installed)
            if not known and not origin.is_relative_to(root.resolve()):
                yield origin


def _named_modules(config: Path | None, words: Sequence[str], root: Path) -> set[str]:
    """Top-level names of the import paths, ``package.module:Name``, in a configuration and its overrides."""
    overrides = [word for word in words[1:] if re.match(r"[a-z_.]+=", word)]
    raw: list[dict[str, Any]] = [with_overrides({} if config is None else read_yaml(locate(config, root)), overrides)]
    for section in (raw[0].get(name) for name in ("search", "compare")):
        base = section.get("base") if isinstance(section, dict) else None
        if config is not None and isinstance(base, str):
            raw.append(read_yaml(locate(base, locate(config, root).parent)))
    matches = (_IMPORT_PATH.fullmatch(text) for one in raw for text in _texts(one))
    return {match[1] for match in matches if match}


def _texts(plain: Any) -> Iterator[str]:
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, dict | list):
        for value in plain.values() if isinstance(plain, dict) else plain:
            yield from _texts(value)
