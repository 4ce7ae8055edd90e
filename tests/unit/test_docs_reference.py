"""The reference of the configuration and the schema beside it are current; every key says what it is."""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cluster.config.json_schema import json_schema
from cluster.config.meanings import meanings, summary

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / ".ci" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_current(reference: ModuleType) -> None:
    for path, text in reference.files().items():
        assert path.read_text(encoding="utf-8") == text, f"run: .venv/bin/python .ci/reference.py ({path.name} is old)"


def test_the_page_shows_type_default_and_meaning() -> None:
    page = (ROOT / "docs" / "reference_configuration.md").read_text(encoding="utf-8")
    assert "| `lr` | number ≥ 0 | `0.01` | Step size α, for a loss averaged over examples. |" in page
    assert "| `shot` | whole number | `10` | support points K, 1 to 10,000. |" in page
    assert "**`outer.optimizer: adamw`**\n\n`betas` `[0.9, 0.999]`" in page
    assert "lbfgs" not in page  # which the learner refuses


def without_text(key: str, part: Mapping[str, Any]) -> Iterator[str]:
    """Keys of a schema that have no description, but for what torch's optimizers take."""
    below = dict(part.get("properties", {}))
    for condition in part.get("allOf", ()):
        if key != "outer.optimizer":
            below |= condition.get("then", {}).get("properties", {})
    for name, value in below.items():
        if not value.get("description") and value != {}:
            yield f"{key}.{name}"
        yield from without_text(f"{key}.{name}".strip("."), value)
    for option in part.get("anyOf", ()):
        yield from without_text(key, option)


def test_every_key_says_what_it_is() -> None:
    schema = json_schema()
    del schema["anyOf"]  # which sections there have to be
    assert list(without_text("", schema)) == []
    assert list(without_text("", {"properties": {"a": {"type": "integer"}}})) == [".a"]


def test_meanings_are_read_from_docstrings() -> None:
    class Base:
        """A base.

        Attributes:
            width: units of
                each layer, see :class:`Base`.
        """

    class Net(Base):
        """Layers (Finn et al. 2017, eq. 1). More of it.

        Args:
            depth: layers; ``None``: two.

        >>> print("depth: no entry")
        """

    assert meanings(Net) == {"width": "units of each layer, see `Base`.", "depth": "layers; null: two."}
    assert summary(Net) == "Layers (Finn et al. 2017, eq. 1)"


def test_the_schema_is_the_one_that_is_printed() -> None:
    assert json.loads((ROOT / "docs" / "metaray.schema.json").read_text(encoding="utf-8")) == json_schema()
