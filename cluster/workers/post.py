"""Which worker a process is, and of which pool."""

from dataclasses import dataclass

from cluster.workers.transport.hub import Address


@dataclass(frozen=True, kw_only=True)
class Post:
    """A worker's place in a pool.

    Attributes:
        address: the pool's.
        pool_node: Ray's identity of the pool's node.
        node: of the worker's node.
        number: the worker's, for the pool.
        start: number of this start among all of the pool's, which a worker that comes back is known by.
    """

    address: Address
    pool_node: str
    node: str
    number: int
    start: int
