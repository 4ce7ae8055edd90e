"""From a model's address to what a server serves."""

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.config.overrides import with_overrides
from cluster.errors import ConfigError
from cluster.registry.client import Registry
from cluster.registry.loading import load_adaptable
from cluster.serving.limits import Limits
from cluster.serving.live import Described
from meta.engine.arithmetic import fix_arithmetic
from meta.engine.memory import keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A registered model at an address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.

    Attributes:
        registry: where it is.
        address: of the model.
        limits: what the server will accept.
        trusted: packages whose classes it may name.
    """

    registry: Registry
    address: str
    limits: Limits
    trusted: tuple[str, ...] = ()

    def resolve(self) -> tuple[str, int]:
        """Name and version that the address stands for now.

        Raises:
            ConfigError: if there is no such model.
        """
        return self.registry.resolve(self.address)

    def load(self, name: str, version: int) -> Described:
        """A version of a registered model, ready to adapt.

        Args:
            name: of the registered model.
            version: its number.

        Raises:
            ConfigError: if it takes more inner steps by default than the limits allow.
            CheckpointError: if it is damaged.
        """
        with self.registry.package(name, version) as folder:
            model = load_adaptable(folder.path, self.trusted)
        if model.inner_steps > self.limits.steps:
            raise ConfigError(
                f"--max-steps: expected at least the {model.inner_steps} inner steps that {self.address} takes by "
                f"default, received {self.limits.steps}"
            )
        collect_seldom()
        source = self if "@" in self.address else None
        card = self.registry.card(name, version)
        return Described(name=name, version=version, card=card, model=model, source=source)


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
    registered = Registered(
        registry=Registry.of(overrides, trusted), address=address, limits=limits, trusted=tuple(trusted)
    )
    fix_arithmetic(threads=1)
    if not keep_freed_memory():
        print("warning: this C library gives memory back between requests, which makes them slower", file=sys.stderr)
    return registered.load(*registered.resolve())


def collect_seldom() -> None:
    """Let Python's search for garbage pass over what is there for good, and come less often.

    A body of images makes tens of thousands of lists, and every 700 start a search; through all that torch and MLflow
    hold it took ten times as long as the reading, with every other thread waiting.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
