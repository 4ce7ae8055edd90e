"""Asking Ray's autoscaler for the nodes that a run's workers need.

Workers without room are demand that the autoscaler sees already. The request says beside it how large the cluster is to
be while the run goes on, so that nodes come at once and idle ones stay. Ray keeps one request for the whole cluster,
the latest, until another replaces it: it is withdrawn at the end, and who dies without doing so leaves it to the next
who makes one.
"""

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.placement_group import get_current_placement_group

from cluster.config.sections import ClusterConfig
from cluster.workers.head import answers
from cluster.workers.room import Resources, room


class Request:
    """A request for the nodes of a pool, or none where they are there already."""

    def __init__(self, limits: ClusterConfig, workers: int, total: Resources) -> None:
        """Ask, unless the cluster has room for all workers, or they live in a placement group.

        Args:
            limits: what each worker takes.
            workers: number of workers.
            total: resources that the cluster has.
        """
        self.made = room(limits, total) < workers and get_current_placement_group() is None
        if self.made:
            request_resources(bundles=[_bundle(limits)] * workers)

    def withdraw(self) -> None:
        """Let the cluster shrink again. May be called twice."""
        if self.made and answers(ray.get_runtime_context().gcs_address):  # a lost head has no autoscaler any more
            request_resources(bundles=[])
        self.made = False


def _bundle(limits: ClusterConfig) -> dict[str, float]:
    """Resources that one worker takes, by Ray's names."""
    bundle: dict[str, float] = {"CPU": limits.threads}
    return bundle | ({"GPU": limits.gpus_per_worker} if limits.gpus_per_worker > 0 else {})
