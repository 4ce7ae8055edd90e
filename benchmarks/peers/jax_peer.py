"""JAX (github.com/jax-ml/jax): one compiled program, a gradient of a gradient over all tasks."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.competitor import LeftOut, Option, Prepared
from benchmarks.suites import Work
from meta.episode import leaves
from meta.models import MLP
from meta.params import Params


@dataclass(frozen=True)
class Jax:
    """``jit`` of the summed gradient, tasks by ``vmap`` or one after another by ``lax.map``, whichever is faster."""

    name: str = "jax"

    def options(self, work: Work, threads: int) -> list[Option]:
        """All cores that the process may use; JAX has no other setting."""
        forms = ("vmap",) if isinstance(work.model, MLP) else ("vmap", "map")
        return [Option(threads, form) for form in forms]

    def prepare(self, work: Work, option: Option) -> Prepared:
        """Move the data over and write the function down."""
        try:
            import jax
        except ImportError as error:
            raise LeftOut(f"not installed ({error})") from error
        if work.device.type != "cpu" and jax.default_backend() == "cpu":
            raise LeftOut("the installed JAX computes on the processor only")
        double = work.dtype == torch.float64

        def precision() -> Any:
            """Double precision for a comparison; elsewhere the default, and nothing around the timed call."""
            return jax.enable_x64(True) if double else nullcontext()

        with precision():
            params = {name: _moved(value) for name, value in work.params.items()}
            support = tuple(_moved(part) for part in leaves(work.episodes)[:2])
            query = tuple(_moved(part) for part in leaves(work.episodes)[2:4])
            program = _program(work, option.form or "vmap")

        def run() -> Any:
            with precision():
                return jax.block_until_ready(program(params, support, query))

        return Prepared(run=run, gradient=_back, strategy=option.form)


def _program(work: Work, form: str) -> Any:
    import jax
    from jax import lax

    from benchmarks.peers.jax_models import apply_of, losses_of

    apply = apply_of(work.suite.model)
    inner, outer = losses_of(work.suite.model)
    lr, steps = work.suite.lr, work.suite.steps

    def meta_loss(params: Any, support: Any, query: Any) -> Any:
        for _ in range(steps):
            gradient = jax.grad(lambda moving: inner(apply(moving, support[0]), support[1]))(params)
            params = {name: value - lr * gradient[name] for name, value in params.items()}
        return outer(apply(params, query[0]), query[1])

    def summed(params: Any, support: Any, query: Any) -> Any:
        one = jax.grad(meta_loss)
        if form == "map":
            each = lax.map(lambda task: one(params, *task), (support, query))
        else:
            each = jax.vmap(one, in_axes=(None, 0, 0))(params, support, query)
        return {name: value.sum(0) for name, value in each.items()}

    return jax.jit(summed)


def _moved(tensor: Tensor) -> Any:
    import jax.numpy as jnp

    array = tensor.cpu().numpy()
    return jnp.asarray(array.astype(np.int32) if array.dtype == np.int64 else array)


def _back(result: Any) -> Params:
    return {name: torch.from_numpy(np.array(value)) for name, value in result.items()}
