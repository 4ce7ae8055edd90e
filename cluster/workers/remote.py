"""One call on the cluster, with what a worker takes: where the driver's machine may lack what workers have."""

from collections.abc import Callable

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from cluster.config.schema import Config
from cluster.errors import ClusterError, MetarayError


def on_a_worker(config: Config, function: Callable[[Config], str]) -> str:
    """The result of a function of the configuration, called in a process with the CPUs and GPUs of a worker.

    Args:
        config: its section ``cluster`` says what a worker takes and how long is waited.
        function: of a module that workers can import.

    Raises:
        MetarayError: that the function raised.
        ClusterError: if the cluster has no room for it, or it does not end.
    """
    limits = config.cluster
    call = ray.remote(function).options(num_cpus=limits.threads, num_gpus=limits.gpus_per_worker, max_retries=3)
    result = call.remote(config)
    patience = limits.start_timeout + limits.order_timeout
    try:
        text: str = ray.get(result, timeout=patience)
    except RayTaskError as error:
        if isinstance(error.cause, MetarayError):
            raise error.cause from error
        raise MetarayError(f"a worker failed: {type(error.cause).__name__}: {error.cause}") from error
    except GetTimeoutError as error:
        ray.cancel(result, force=True)
        raise ClusterError(
            f"expected a worker with {limits.threads} CPU and {limits.gpus_per_worker:g} GPU to try the run within "
            f"{patience:g} s, received nothing; wait for room on the cluster, add nodes, or raise cluster.start_timeout"
        ) from error
    return text
