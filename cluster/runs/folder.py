"""A run's folder: what lies where, and how a RUN given by path or MLflow id is found again."""

import contextlib
import json
import re
import secrets
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from cluster.config.credentials import masked
from cluster.config.schema import Config, parse, read_yaml
from cluster.errors import CheckpointError, ConfigError, MetarayError
from cluster.runs.events import EVENTS
from cluster.runs.lasting import require_lasting_root, require_lasting_store
from cluster.runs.storage import Store, write_file
from meta.engine.choice import Choice
from meta.engine.machine import available_cores, processor

PACKAGES = ("metaray", "torch", "ray", "mlflow", "numpy")
DESCRIBED = ("name", "algorithm", "checkpoints", "engine", "mlflow_run_id", "mlflow_uri")  # keys of every run.json
LIVE = "live.json"  # the state of a training while it runs, for `metaray watch`
PATIENCE = 60.0  # seconds to wait for another writer of a description
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class DescribedFolder:
    """A folder with a description, ``run.json`` of a run and ``search.json`` of a search, and with metrics."""

    description = "run.json"

    def __init__(self, path: Path, planned: Mapping[str, Any] | None = None) -> None:
        """Name a folder; nothing is read or written yet. One that is still to be made has a description already."""
        self.path = path
        self._planned = planned

    @property
    def exists(self) -> bool:
        """Whether the folder has been made, so that it may hold a training's work."""
        return self._planned is None

    @property
    def info(self) -> dict[str, Any]:
        """The contents of the description."""
        return read_json(self.path / self.description) if self._planned is None else dict(self._planned)

    def settle(self, settings: str, text: str) -> None:
        """Make a folder that was only planned, its description last, and bring its settings up to date.

        Args:
            settings: name of the file of settings.
            text: its contents; a file that has them already is left alone.
        """
        path = self.path / settings
        if not path.is_file() or path.read_bytes() != text.encode():
            write_file(path, text.encode())
        if self._planned is not None:
            write_json(self.path / self.description, self._planned)
            self._planned = None

    def update_info(self, **values: Any) -> None:
        """Change entries of the description, one writer at a time: the training, its tracker and its search."""
        if self._planned is not None:
            self._planned = {**self._planned, **values}
            return
        with FileLock(self.path / f".{self.description}.lock", timeout=PATIENCE):
            write_json(self.path / self.description, self.info | values)

    @property
    def metrics_path(self) -> Path:
        """The metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"


class RunFolder(DescribedFolder):
    """``config.yaml``, ``run.json``, ``metrics.jsonl``, ``events.jsonl``, ``checkpoints/``, ``evaluation.json``, ….

    The checkpoints of a run whose ``checkpoint.root`` is a URI lie there; all else is local.
    """

    @property
    def config(self) -> Config:
        """The run's configuration.

        Raises:
            ConfigError: naming the file, and what is wrong with it.
        """
        raw = read_yaml(self.path / "config.yaml")
        try:
            return parse(raw)
        except ConfigError as error:
            raise ConfigError(f"{self.path / 'config.yaml'}: {error}") from error

    @property
    def checkpoints(self) -> Store:
        """Store of the checkpoints: in the folder, so that it may be moved, or at the URI it was given."""
        return Store(self.info["checkpoints"] or str(self.path / "checkpoints"))

    @property
    def baselines(self) -> dict[str, "RunFolder"]:
        """Runs of the baselines, by algorithm."""
        folder = self.path / "baselines"
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        return {path.name: RunFolder(path) for path in paths if (path / "run.json").exists()}

    @property
    def figures(self) -> Path:
        """The folder of figures."""
        return self.path / "figures"

    @property
    def artifacts(self) -> list[Path]:
        """Files and folders that belong in MLflow beside the metrics; some may not be there."""
        names = ("config.yaml", "run.json", "evaluation.json", EVENTS, "report.html", "figures")
        return [self.path / name for name in names]

    @property
    def events_path(self) -> Path:
        """The events of the cluster, one JSON object a line; there once there was one."""
        return self.path / EVENTS


def beginning(name: str) -> dict[str, Any]:
    """First entries of the description of a run or a search: when, with what and on what machine it was made."""
    return {
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "mlflow_run_id": None,
        "mlflow_uri": None,
        "versions": {package: version(package) for package in PACKAGES},
        "git_commit": _git_commit(),
        "hardware": f"{processor()}, {available_cores()} cores",
    }


def plan(
    config: Config,
    name: str,
    engine: Choice,
    path: Path | None = None,
    data: str = "",
    frozen: Sequence[str] = (),
    weights: Mapping[str, Any] | None = None,
) -> RunFolder:
    """Describe a run's folder, under ``checkpoint.root`` or at ``path``, without making it yet.

    Args:
        config: the run's configuration.
        name: of the run.
        engine: the strategy that it came to.
        path: of the folder, unless it lies under ``checkpoint.root``.
        data: fingerprint of the data that tasks are drawn from, empty for families that need none.
        frozen: names of the parameters that are not trained.
        weights: digest of the file that the initial θ is taken from, and warnings about it; None: there is no file.
    """
    root = config.checkpoint.root
    path = path if path is not None else place(config, name)
    checkpoints = f"{root.rstrip('/')}/{name}/checkpoints" if "://" in root else None
    info = beginning(name) | {
        "algorithm": config.algorithm.name,
        "checkpoints": checkpoints,
        "engine": engine.name,
        "engine_reason": engine.reason,
        "engines_passed_over": dict(engine.passed_over),
        "engine_warning": engine.warning,
        "engine_chosen": config.engine in ("auto", "measure"),
        "recompute": engine.recompute,
        "data": data,
        "frozen": list(frozen),
    }
    info |= {} if weights is None else {"weights": dict(weights)}
    return RunFolder(path, info)


def place(config: Config, name: str) -> Path:
    """Path of the folder of a run, or of a search, of this name: under ``checkpoint.root`` unless that is a URI.

    Args:
        config: the run's configuration.
        name: of the run or search.

    Raises:
        ConfigError: if the folder, or what is tracked in MLflow, would be gone with the Ray job that makes it.
    """
    root = config.checkpoint.root
    require_lasting_root(root)
    require_lasting_store(config.tracking.uri)
    return Path("runs" if "://" in root else root) / name


def require_name(name: str) -> None:
    """Raise an error if a name cannot be a folder's.

    Raises:
        ConfigError: saying what a name is made of.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"name: expected letters, digits, '.', '_' and '-', beginning with a letter or digit, received '{name}'"
        )


def new_name(stem: str) -> str:
    """A new run's name: ``stem``, the time, and four random hexadecimal digits that make it unique."""
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def find(run: str, root: str = "runs") -> RunFolder:
    """The folder of a RUN given by its path, its name under ``root``, or its MLflow run id.

    Args:
        run: path, name or MLflow run id.
        root: folder in which names are looked up.

    Raises:
        ConfigError: if there is no such run.
    """
    for path in (Path(run), Path(root) / run):
        if (path / "run.json").is_file():
            return _whole(RunFolder(path))
    if (folder := with_mlflow_run(run, Path(root), ["run.json"])) is not None:
        return RunFolder(folder)
    raise ConfigError(
        f"expected a run's folder or an MLflow run id, received '{run}'; the runs are in the folder '{root}/'"
    )


def with_mlflow_run(run: str, root: Path, descriptions: Iterable[str]) -> Path | None:
    """The folder below ``root`` that belongs to an MLflow run; None if none does.

    Args:
        run: id of the MLflow run.
        root: folder that is searched.
        descriptions: names of files that describe a folder, such as ``run.json``.
    """
    for name in descriptions:
        for info in sorted(root.glob(f"**/{name}")):
            with contextlib.suppress(MetarayError):  # another run's damaged description says nothing about this one
                if read_json(info).get("mlflow_run_id") == run:
                    return info.parent
    return None


def _whole(folder: RunFolder) -> RunFolder:
    """A run's folder whose description says what every command asks of it."""
    missing = [key for key in DESCRIBED if key not in folder.info]
    if missing:
        raise CheckpointError(
            f"{folder.path / 'run.json'}: expected the description of a run, received one without "
            f"{', '.join(missing)}; restore it from a copy"
        )
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """The contents of a JSON file of a run or a search.

    Raises:
        CheckpointError: if it is missing, cut short, or no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected a JSON file that metaray wrote, received {_cause(error)}; restore it from a copy, or "
            "start a new run"
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, received {type(data).__name__}; restore it from a copy")
    return data


def _cause(error: Exception) -> str:
    return "none" if isinstance(error, FileNotFoundError) else f"something else ({error})"


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all, without secrets.

    Args:
        path: the file.
        data: JSON values by key.
    """
    write_file(path, (json.dumps(masked(data), indent=2, allow_nan=False) + "\n").encode())


def _git_commit() -> str | None:
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # not in a checkout
    return done.stdout.strip()
