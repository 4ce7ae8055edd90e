"""Folders of runs and of searches, made in one call as a command makes them in two."""

from pathlib import Path

from cluster.config.schema import Config
from cluster.runs.folder import RunFolder, plan
from cluster.search.folder import SearchFolder
from cluster.search.folder import plan as plan_search
from cluster.search.settings import Search
from cluster.training.start import begin
from meta.engine.choice import Choice


def make_run(config: Config, name: str, engine: Choice, path: Path | None = None) -> RunFolder:
    """A run's folder, planned and made, under a choice of engine."""
    return settle_run(plan(config, name, engine, path), config)


def new_run(config: Config, name: str, path: Path | None = None) -> RunFolder:
    """A run's folder, planned as a command plans it, and made."""
    return settle_run(begin(config, name, path).folder, config)


def make_search(search: Search, name: str) -> SearchFolder:
    """A search's folder, planned and made."""
    return settle_search(plan_search(search, name), search)


def settle_run(folder: RunFolder, config: Config) -> RunFolder:
    """A planned folder of a run, made; one that is there already stays as it is."""
    if not folder.exists:
        folder.settle("config.yaml", config.to_yaml())
    return folder


def settle_search(folder: SearchFolder, search: Search) -> SearchFolder:
    """A planned folder of a search, made; one that is there already stays as it is."""
    if not folder.exists:
        folder.settle("search.yaml", search.to_yaml())
    return folder
