"""The Ray actor around a relay, and the pool's hold on it."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import ClusterError
from cluster.workers.relay import Relay
from cluster.workers.serving import CONNECTING
from cluster.workers.transport.greeting import Refused
from cluster.workers.transport.hub import Address, connect
from cluster.workers.transport.link import LinkClosed


class RelayActor:
    """A :class:`Relay` in a process of its own."""

    def serve(self, address: Address, node: str) -> None:
        """Relay until the pool closes the link.

        Args:
            address: the pool's.
            node: Ray's name of this node.

        Raises:
            ClusterError: if the pool cannot be reached.
        """
        try:
            up = connect(address, same_machine=False, patience=CONNECTING)
        except (OSError, Refused) as error:
            raise ClusterError(f"a relay cannot reach the run at {address.host}:{address.port}: {error}") from error
        with suppress(LinkClosed):  # the pool is closed
            own_address: Callable[[], str] = ray.util.get_node_ip_address
            Relay(up, node, address.secret, own_address()).run()
        up.close()


class RelayProcess:
    """A relay as Ray knows it."""

    def __init__(self, address: Address, node: str) -> None:
        """Start it on a node; without a place among the node's CPUs, since it mostly waits.

        Args:
            address: the pool's.
            node: Ray's name of the node.
        """
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": there}
        remote: Any = ray.remote(RelayActor)
        self._actor = remote.options(**options).remote()
        self._serving = self._actor.serve.remote(address, node)

    @property
    def ended(self) -> bool:
        """Whether it has ended, or could not be started."""
        return bool(ray.wait([self._serving], timeout=0)[0])

    def end(self) -> None:
        """Kill it."""
        ray.kill(self._actor)
