"""From a model's address to what a server serves."""

import gc
import sys
from collections.abc import Sequence

from cluster.config import with_overrides
from cluster.errors import ConfigError
from cluster.registry.client import Registry
from cluster.registry.loading import load_adaptable
from cluster.serving.app import Described
from cluster.serving.limits import Limits
from cluster.worker import fix_arithmetic
from meta.memory import keep_freed_memory


def load(address: str, overrides: Sequence[str], limits: Limits, trusted: Sequence[str] = ()) -> Described:
    """The registered model at an address, in this process, which is made ready to compute.

    Args:
        address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        overrides: ``tracking.uri=…``.
        limits: what the server will accept.
        trusted: packages whose classes the model's configuration may name.

    Raises:
        ConfigError: if there is no such model, or it takes more inner steps by default than the limits allow.
        CheckpointError: if it is damaged.
    """
    if other := set(with_overrides({}, overrides)) - {"tracking"}:
        raise ConfigError(f"expected tracking.uri=… alone, received '{sorted(other)[0]}': a model is served as it is")
    registry = Registry.of(overrides, trusted)
    fix_arithmetic(threads=1)
    if not keep_freed_memory():
        print("warning: this C library gives memory back between requests, which makes them slower", file=sys.stderr)
    name, version = registry.resolve(address)
    with registry.package(name, version) as folder:
        model = load_adaptable(folder.path, trusted)
    if model.inner_steps > limits.steps:
        raise ConfigError(
            f"--max-steps: expected at least the {model.inner_steps} inner steps that {address} takes by default, "
            f"received {limits.steps}"
        )
    collect_seldom()
    return Described(name=name, version=version, card=registry.card(name, version), model=model)


def collect_seldom() -> None:
    """Let Python's search for garbage pass over what is there for good, and come less often.

    A body of images makes tens of thousands of lists, and every 700 start a search; through all that torch and MLflow
    hold it took ten times as long as the reading, with every other thread waiting.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
