"""Client of MLflow's registry, with clients of its own: MLflow's global state stays as it is."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.tracking.server import NOT_FOUND, connect, tracking_uri  # first: it tells MLflow how long to try

# isort: split
import mlflow.artifacts
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from pydantic import ValidationError

from cluster.config.components import strictly
from cluster.config.credentials import without_credentials
from cluster.config.overrides import with_overrides
from cluster.config.problems import problems
from cluster.config.sections import TrackingConfig
from cluster.errors import ConfigError, MetarayError
from cluster.registry import attempts
from cluster.registry.pyfunc import PACKAGE
from cluster.registry.trust import require_trusted, trusted_packages
from cluster.runs.folder import RunFolder

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

LOGGED_NAME = "meta_model"  # of the model among those of its run
MODEL = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))")
NAME = re.compile(r"\w[\w .-]{0,199}")
ALIAS = re.compile(r"(?!(?i:latest|v\d+)$)[\w-]{1,200}", re.ASCII)


def require_names(name: str, alias: str | None) -> None:
    """Check the names of a model and of an alias before anything is done.

    Args:
        name: of the registered model.
        alias: of a version, or None.

    Raises:
        ConfigError: if the registry would refuse one, or could not be asked for it.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            "name: expected letters, digits, '_', '-', '.' and spaces, a letter or digit first, at most 200 in all; "
            f"received '{name}'"
        )
    if alias is not None and not ALIAS.fullmatch(alias):
        raise ConfigError(
            "alias: expected letters, digits, '_' and '-', at most 200 in all, and neither 'latest' nor 'v' with a "
            f"number, which MLflow keeps for itself; received '{alias}'"
        )


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Contents of a new version.

    Attributes:
        run_id: MLflow run that the model is of.
        save: writes what is uploaded for a logged model into a new folder.
        description: the model card.
        tags: of the version.
    """

    run_id: str
    save: Callable[[Path, LoggedModel], None]
    description: str
    tags: Mapping[str, str]


class Registry:
    """The registry at one address, and the tracking server that holds the models' files."""

    def __init__(self, config: TrackingConfig, trusted: Sequence[str] = ()) -> None:
        """Name the tracking server; the registry is there too unless ``MLFLOW_REGISTRY_URI`` says otherwise.

        ``trusted`` are packages whose classes a model's configuration may name, see :mod:`cluster.registry.trust`.

        Raises:
            ConfigError: if it is a database that does not exist.
        """
        self._uri, self._trusted = tracking_uri(config), trusted_packages(trusted)
        database = self._uri.removeprefix("sqlite:///")
        if database != self._uri and not Path(database).exists():  # MLflow would make it
            raise ConfigError(f"expected MLflow's database at {database}, found none; set MLFLOW_TRACKING_URI")
        self.shown = without_credentials(os.environ.get("MLFLOW_REGISTRY_URI") or self._uri)
        with self._answers():
            self._client = connect(self._uri)

    @classmethod
    def of(cls, overrides: Sequence[str], trusted: Sequence[str] = ()) -> "Registry":
        """The registry that ``tracking.…`` among overrides names, where no run's configuration does.

        Args:
            overrides: words ``section.key=value``.
            trusted: packages whose classes a model's configuration may name.

        Raises:
            ConfigError: if one of them is wrong, or the database does not exist.
        """
        tracking = with_overrides({}, overrides).get("tracking", {})
        try:
            return cls(strictly(TrackingConfig, tracking), trusted)
        except ValidationError as error:
            raise ConfigError("\n".join(problems(error, TrackingConfig, "tracking."))) from error

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Convert errors of MLflow to errors that name the registry and say what to do."""
        try:
            yield
        except MetarayError:
            raise
        except Exception as error:  # stores raise what their databases and servers raise
            raise MetarayError(
                without_credentials(
                    f"expected an answer of the MLflow registry at {self.shown}, received {type(error).__name__}: "
                    f"{error}; see that it runs and that tracking.uri or MLFLOW_TRACKING_URI names it"
                )
            ) from error

    def require_run(self, folder: RunFolder) -> str:
        """The MLflow run that a run's folder is kept in.

        Raises:
            ConfigError: if it is not here.
        """
        info = folder.info
        run_id = info["mlflow_run_id"]
        advice = (
            "register where it is tracked (tracking.uri, MLFLOW_TRACKING_URI), or send it with: metaray tracking replay"
        )
        if run_id is None:
            raise ConfigError(f"expected a run that MLflow has, {folder.path} has not been sent yet; {advice}")
        with self._answers():
            try:
                run = self._client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != NOT_FOUND:
                    raise
                run = None
            if run is None or run.info.lifecycle_stage != "active":
                raise ConfigError(
                    f"expected run {run_id} of {folder.path} at {without_credentials(self._uri)}, found none; it was "
                    f"tracked at {info['mlflow_uri']}: {advice}"
                )
            self._aliases("metaray")  # the registry may be elsewhere, or not answer
        return str(run_id)

    def holder(self, name: str, alias: str) -> int | None:
        """The version of model ``name`` that has ``alias``; None if none has."""
        with self._answers():
            version = self._aliases(name).get(alias)
        return None if version is None else int(version)

    def reserve(self, name: str, tasks: int) -> attempts.Attempt:
        """Count a comparison with a champion; see :func:`cluster.registry.attempts.reserve`."""
        with self._answers():
            return attempts.reserve(self._client, name, tasks)

    def _aliases(self, name: str) -> dict[str, Any]:
        try:
            return dict(self._client.get_registered_model(name).aliases)
        except MlflowException as error:
            if error.error_code == NOT_FOUND:
                return {}
            raise

    @contextmanager
    def package(self, name: str, version: int) -> Iterator[RunFolder]:
        """The run's folder that is packed in a version, on this machine for the duration of a block.

        Args:
            name: of the registered model.
            version: its number.

        Raises:
            ConfigError: if there is no such version, or metaray did not register it.
            TrustError: if its configuration names a class of a package that is not trusted.
        """
        with tempfile.TemporaryDirectory(prefix="metaray-") as target:
            with self._answers():
                try:
                    source = self._client.get_model_version_download_uri(name, str(version))
                except MlflowException as error:
                    if error.error_code != NOT_FOUND:
                        raise
                    raise ConfigError(
                        f"expected version {version} of model '{name}' at {self.shown}, found none"
                    ) from error
                downloaded = Path(mlflow.artifacts.download_artifacts(source, dst_path=target, tracking_uri=self._uri))
            folder = RunFolder(downloaded / "artifacts" / PACKAGE)
            if not (folder.path / "run.json").is_file():
                raise ConfigError(
                    f"expected a model that metaray registered, version {version} of '{name}' at {self.shown} is none"
                )
            require_trusted(folder.path, self._trusted)
            yield folder

    def resolve(self, address: str) -> tuple[str, int]:
        """Name and version that ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` stands for now.

        Raises:
            ConfigError: if the address is another, or no version has the alias.
        """
        match = MODEL.fullmatch(address)
        if match is None:
            raise ConfigError(f"expected models:/NAME@ALIAS or models:/NAME/VERSION, received '{address}'")
        version = match["version"] or self.holder(match["name"], match["alias"])
        if version is None:
            raise ConfigError(
                f"expected a model at {address} in {self.shown}, found none; register one with that alias"
            )
        return match["name"], int(version)

    @contextmanager
    def open(self, address: str) -> Iterator[RunFolder]:
        """The run's folder packed in the version at an address, as :meth:`package` gives it.

        Raises:
            ConfigError: if the address is another, or there is no such model.
        """
        with self.package(*self.resolve(address)) as folder:
            yield folder

    def card(self, name: str, version: int) -> str:
        """The description of a version."""
        with self._answers():
            return str(self._client.get_model_version(name, str(version)).description or "")

    def publish(self, name: str, contents: Contents, alias: str | None, instead_of: int | None) -> int:
        """Upload a model, register it as a new version, and give it its alias last.

        Whatever fails on the way, or interrupts it, what was made so far is taken back.

        Args:
            name: of the registered model; it is made if there is none.
            contents: what the version holds.
            alias: name for the version, or None.
            instead_of: version that the alias has to stand for still, None for no version.

        Returns:
            The version's number.

        Raises:
            MetarayError: if something failed, or the alias has moved meanwhile.
        """
        with self._answers(), _undone_unless_whole() as made:
            logged = self._upload(contents, made)
            self._name(name, made)
            version = self._client.create_model_version(
                name,
                source=logged.artifact_location,
                run_id=contents.run_id,
                model_id=logged.model_id,
                tags=dict(contents.tags),
                description=contents.description,
            ).version
            made.append((f"version {version} of {name}", lambda: self._client.delete_model_version(name, version)))
            if alias is not None:
                self._point(name, alias, version, instead_of, made)
            versions = json.dumps([{"name": name, "version": str(version)}])
            self._client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: versions})
            self._client.log_outputs(contents.run_id, [LoggedModelOutput(logged.model_id, step=0)])
        return int(version)

    def _upload(self, contents: Contents, made: "Made") -> LoggedModel:
        client = self._client
        experiment = client.get_run(contents.run_id).info.experiment_id
        logged = client.create_logged_model(
            experiment, LOGGED_NAME, source_run_id=contents.run_id, model_type="metaray"
        )
        made.append((f"logged model {logged.model_id}", lambda: client.delete_logged_model(logged.model_id)))
        with tempfile.TemporaryDirectory(prefix="metaray-") as folder:
            path = Path(folder) / "model"
            contents.save(path, logged)
            client.log_model_artifacts(logged.model_id, str(path))
        client.finalize_logged_model(logged.model_id, "READY")
        return logged

    def _name(self, name: str, made: "Made") -> None:
        """Make the registered model if there is none."""

        def remove() -> None:
            if not self._client.search_model_versions(f"name='{name}'"):
                self._client.delete_registered_model(name)

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return
        made.append((f"registered model {name}", remove))

    def _point(self, name: str, alias: str, version: Any, instead_of: int | None, made: "Made") -> None:
        """Set an alias to a version, if it still points to another one."""
        now = self._aliases(name).get(alias)
        if (None if now is None else int(now)) != instead_of:
            raise MetarayError(
                f"expected alias '{alias}' of {name} to stand for version {instead_of or 'none'} still, it stands for "
                f"{now or 'none'} now: somebody else moved it meanwhile; nothing was registered, run the command again"
            )

        def restore() -> None:
            if instead_of is None:
                self._client.delete_registered_model_alias(name, alias)
            else:
                self._client.set_registered_model_alias(name, alias, str(instead_of))

        made.append((f"alias {alias} of {name}", restore))
        self._client.set_registered_model_alias(name, alias, version)


Made = list[tuple[str, Callable[[], Any]]]


@contextmanager
def _undone_unless_whole() -> Iterator[Made]:
    """A list of what is made in a block, with how to take it back, which is done last to first if the block fails.

    Raises:
        MetarayError: naming what could not be taken back, if the block fails and that does.
    """
    made: Made = []
    try:
        yield made
    except BaseException as error:  # an interrupted registration is undone like a failed one
        left = []
        for what, undo in reversed(made):
            try:
                undo()
            except Exception as another:
                left.append(f"{what} ({another})")
        if left:
            message = f"{error!r}; could not take back {', '.join(left)}: remove it by hand"
            raise MetarayError(without_credentials(message)) from error
        raise
