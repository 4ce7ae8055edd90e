"""The competitors by name: ours and the peers."""

from collections.abc import Sequence

from benchmarks.competitor import Competitor
from benchmarks.ours import AUTO, Metaray
from benchmarks.peers.higher_peer import Higher
from benchmarks.peers.inductor_peer import Inductor
from benchmarks.peers.jax_peer import Jax
from benchmarks.peers.learn2learn_peer import Learn2Learn
from benchmarks.peers.loop import Loop
from benchmarks.peers.torchopt_peer import TorchOpt

LOOP = Loop()
PEERS: dict[str, Competitor] = {
    peer.name: peer for peer in (LOOP, Inductor(), Higher(), TorchOpt(), Jax(), Learn2Learn())
}


def competitors(strategies: Sequence[str] = (), peers: Sequence[str] | None = None) -> list[Competitor]:
    """Our engine as a user gets it, under further strategies, and the peers; the plain loop is always there.

    Args:
        strategies: further strategies of our engine.
        peers: names of peers; by default all of them.

    >>> [one.name for one in competitors(["trace"], peers=[])]
    ['metaray', 'metaray (trace)', 'loop']
    """
    strategies_of_metaray = [Metaray(strategy) for strategy in dict.fromkeys((AUTO, *strategies))]
    names = PEERS if peers is None else dict.fromkeys(("loop", *peers))
    return [*strategies_of_metaray, *(PEERS[name] for name in names)]
