"""The meta-gradient of any module over a batch of tasks, for a training loop of the caller's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cluster.errors import DivergedError
from meta.context import context
from meta.inner import EVERY, Derivative, InnerRule
from meta.params import Params
from metaray.data import Episodes, batches
from metaray.parts import InnerSettings, Loss, is_finite, require_numbers, theta_of
from metaray.programs import program_of


@dataclass(frozen=True, kw_only=True)
class OuterGradient:
    """The meta-gradient of T tasks.

    Attributes:
        loss: mean over the tasks of the query loss after adaptation, a scalar. ``loss.backward()`` adds the
            meta-gradient to the ``.grad`` of the module's parameters; it may be part of a larger loss, and can be
            differentiated once.
        gradient: mean over the tasks of the meta-gradient, by the names of the module's parameters that require one.
        metrics: numbers of each task by name, each [T]: ``loss``, ``support_loss`` (before the first inner step) and,
            for a loss with a score of its own, that, such as ``accuracy``.
        engine: the strategy that computed it; see docs/engine.md.
    """

    loss: Tensor
    gradient: Params
    metrics: Mapping[str, Tensor] = field(repr=False)
    engine: str

    def __repr__(self) -> str:
        """Loss, number of tasks, norm and engine, in a line."""
        norm = float(torch.nn.utils.get_total_norm(list(self.gradient.values())))
        return (
            f"OuterGradient(loss={float(self.loss.detach()):.4g}, tasks={len(self.metrics['loss'])}, norm={norm:.4g}, "
            f"engine='{self.engine}')"
        )


def meta_gradient(
    module: nn.Module,
    loss: Loss,
    episodes: Episodes,
    *,
    lr: float,
    steps: int = 1,
    rule: str | InnerRule = "sgd",
    derivative: str | Derivative = "exact",
    adapt: Sequence[str] = EVERY,
    engine: str = "auto",
    generator: torch.Generator | None = None,
) -> OuterGradient:
    """Returns the meta-gradient of a module over a batch of tasks: of MAML, exact, second order included.

    ∇_θ 1/T Σ_i L(θ'_i; query_i),  θ'_i = θ after ``steps`` inner steps on L(·; support_i)  (Finn et al. 2017)

    θ are the module's present parameters; the call changes nothing of the module. The first call for a module, loss,
    settings and shapes records a program, later ones run it. Numbers that the loss reads from elsewhere are constants
    of it; parameters, examples and ``lr`` are not.

    Args:
        module: any module with one tensor as input and output. Layers are in the modes that they are in: dropout is on
            in training mode. What meta-learning would get wrong (running statistics, state) is refused by name.
        loss: a name, ``mse`` or ``cross_entropy``, or a function (outputs [B, ...], targets [B, ...]) -> scalar, the
            mean over a task's examples.
        episodes: ((support inputs, support targets), (query inputs, query targets)) for each task, tensors or arrays
            [B, ...], whose shapes may differ from task to task; or an :class:`meta.episode.Episode` of stacked tasks.
            Floating-point numbers are converted to the parameters' dtype.
        lr: α, the step size of the inner loop.
        steps: inner steps.
        rule: of the inner steps: ``sgd``, ``momentum``, ``adam``, ``module:Name``, or an object such as
            ``meta.inner.Adam()``.
        derivative: how the outer gradient goes through the inner steps: ``exact``, ``first_order``, ``truncated``,
            ``implicit``, …, or an object; see docs/methods.md.
        adapt: patterns of the names of the parameters that the inner loop moves; ``("head.*",)`` is ANIL.
        engine: ``auto`` records the computation; ``native`` compiles it, which takes seconds once and pays in long
            loops on a processor. The others are in docs/engine.md.
        generator: CPU generator that dropout and other random layers draw from; needed where there are any.

    Raises:
        ValueError: if an argument is none of these, or no engine runs the module.
        EngineError: if the engine that is named does not.
        DivergedError: if a loss or the gradient is not finite; nothing has changed then.

    >>> module = nn.Linear(1, 1)
    >>> x = torch.linspace(-1, 1, 10)[:, None]
    >>> tasks = [((x, slope * x), (x, slope * x)) for slope in (1.0, 2.0, 3.0)]
    >>> outer = meta_gradient(module, "mse", tasks, lr=0.1)
    >>> outer.loss.backward()
    >>> torch.equal(module.weight.grad, outer.gradient["weight"]), tuple(outer.metrics["loss"].shape)
    (True, (3,))
    """
    require_numbers(steps, lr)
    settings = InnerSettings(steps=steps, rule=rule, derivative=derivative, adapt=_patterns(adapt))
    return _computed(module, loss, episodes, lr, settings, engine, generator)


def _computed(
    module: nn.Module,
    loss: Loss,
    episodes: Episodes,
    lr: float,
    settings: InnerSettings,
    engine: str,
    generator: torch.Generator | None,
) -> OuterGradient:
    params = theta_of(module)
    example = next(iter(params.values()), torch.zeros(()))
    numbers = context({"lr": lr}, example.dtype, example.device)
    sums: Params = {}
    columns: dict[str, list[Tensor]] = {}
    places: list[int] = []
    for batch in batches(episodes, example.dtype, example.device):
        program = program_of(module, params, loss, settings, engine, batch.episodes, generator)
        noisy = program.noisy(params, batch.episodes, generator)
        gradient, metrics = program.engine.meta_gradient(params, noisy, numbers)
        for name in gradient.keys() - program.frozen:
            sums[name] = sums[name] + gradient[name] if name in sums else gradient[name]
        for name, values in metrics.items():
            columns.setdefault(name, []).append(values)
        places += batch.places
    return _result(module, sums, columns, places, program.engine.name)


def _patterns(adapt: Sequence[str]) -> tuple[str, ...]:
    if isinstance(adapt, str):
        raise ValueError(f"adapt: expected a list of patterns of parameter names, received the text '{adapt}'")
    return tuple(adapt)


def _result(
    module: nn.Module, sums: Params, columns: Mapping[str, list[Tensor]], places: list[int], engine: str
) -> OuterGradient:
    """Means over the tasks, in tensors of their own, and the tasks' numbers in the order of the tasks."""
    order = sorted(range(len(places)), key=places.__getitem__)
    # Programs run in inference mode, whose tensors nobody may change; dividing and indexing make ordinary ones.
    metrics = {name: torch.cat(parts)[order].clone() for name, parts in columns.items()}
    trained = {name: value for name, value in module.named_parameters() if name in sums}
    gradient = {name: sums[name] / len(places) for name in trained}
    mean = metrics["loss"].mean()
    if not is_finite([mean, *gradient.values()]):
        lost = [number for number, value in enumerate(metrics["loss"].tolist()) if not abs(value) < float("inf")]
        where = f"the loss of episodes {lost[:5]} after adaptation" if lost else "the meta-gradient"
        raise DivergedError(
            f"expected finite numbers, received NaN or infinity in {where}; lower lr or steps, scale the inputs, or "
            "leave the step out"
        )
    linked: Tensor = _Linked.apply(mean, list(gradient.values()), *trained.values())  # type: ignore[no-untyped-call]
    return OuterGradient(loss=linked, gradient=gradient, metrics=metrics, engine=engine)


class _Linked(torch.autograd.Function):
    """A scalar whose derivatives with respect to the parameters are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        """Returns the value."""
        del parameters
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> Any:
        """Returns the parameters' gradients."""
        return None, None, *(outer * gradient for gradient in ctx.saved_tensors)
