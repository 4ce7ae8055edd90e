"""The inner loop: steps of a rule down the support loss, unrolled so that it can be differentiated."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from torch import Tensor
from torch.func import grad, grad_and_value, jvp, vjp
from torch.utils._pytree import tree_map

from meta.context import FIXED, Context
from meta.episode import Examples
from meta.inner.derivatives import Derivative, Exact, ImplicitDerivative
from meta.inner.names import EVERY, matches, require_matches
from meta.inner.pull import with_pull
from meta.inner.rules import SGD, InnerRule, RuleParams, State
from meta.params import Params

Loss = Callable[[Params, Examples], Tensor]
LEARNED = "inner/"  # begins the names, in θ, of what a rule learns; no module names a parameter so


class At(NamedTuple):
    """A point of the inner loop.

    Attributes:
        params: the model's parameters.
        state: of the rule.
        number: inner steps taken.
        start: the model's parameters before the first step.
        learned: what the rule learns, by name, without the prefix.
    """

    params: Params
    state: State
    number: int
    start: Params
    learned: Params


@dataclass(frozen=True, kw_only=True)
class Inner:
    """How a task's parameters are adapted.

    θ'_0 = θ,  θ'_{j+1} = rule(∇L(θ'_j; support), θ'_j)   (Finn et al. 2017, eq. 1, repeated)

    Attributes:
        lr: α, where the context of a call has none.
        steps: inner steps in training; evaluation may ask for any number.
        rule: turns a gradient into new parameters.
        derivative: how the outer gradient goes through the steps.
        adapt: patterns of the names of the parameters that move (``head.*``); the others stay as they are.
        recompute: keep of each step its parameters and its gradient alone, not the passes through the model, and
            compute products with the Hessian forward over reverse when a step is differentiated (Kemaev et al. 2025,
            «MixFlow-MG»). Memory then grows by the parameters with each step.
    """

    lr: float = 0.01
    steps: int = 1
    rule: InnerRule = field(default_factory=SGD)
    derivative: Derivative = field(default_factory=Exact)
    adapt: tuple[str, ...] = EVERY
    recompute: bool = False

    def init(self, params: Params) -> Params:
        """Returns the model's parameters with those that the rule learns beside them: θ.

        Args:
            params: the model's initial parameters.

        Raises:
            ValueError: if a pattern of ``adapt`` fits none of them, or the derivative does not reach the rule.
        """
        require_matches(params, self.adapt)
        learned = self.rule.rule_params(self._divided(params)[0], self.lr, self.steps)
        if learned and self.derivative.implicit:
            raise ValueError(
                f"inner.derivative: expected exact, first_order or truncated with inner.rule "
                f"{type(self.rule).__name__}, whose numbers are learned, received {type(self.derivative).__name__}, "
                "under which the adapted parameters do not depend on them"
            )
        return {**params, **{LEARNED + name: value for name, value in learned.items()}}

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers of a context: α under ``lr``."""
        return {"lr": self.lr}

    def begin(self, params: Params) -> At:
        """Returns the point before the first step.

        Args:
            params: θ of one task.
        """
        theta = {name: value for name, value in params.items() if not name.startswith(LEARNED)}
        learned = {name.removeprefix(LEARNED): value for name, value in params.items() if name.startswith(LEARNED)}
        return At(theta, self.rule.init(self._divided(theta)[0]), 0, theta, learned)

    def step(self, loss: Loss, at: At, support: Examples, steps: int, context: Context = FIXED) -> tuple[At, Tensor]:
        """Returns the point after one more step, and the support loss before it, a constant.

        Args:
            loss: (parameters, examples) -> scalar.
            at: the point before the step.
            support: the examples of the step, [S, ...].
            steps: number of steps that will be taken in all.
            context: holds α under ``lr``.
        """
        moving, fixed = self._divided(at.params)
        numbers = self._numbers(at, context)
        constant = self.derivative.is_constant(at.number, steps)
        anchor = {name: at.start[name].detach() for name in moving} if self.derivative.strength else {}
        step = _Step(self, loss, constant)
        if self.recompute and not constant:
            moved, state, value = step.recomputed(moving, fixed, at.state, numbers, support)
        else:
            moved, state, value = step.plain(moving, fixed, at.state, numbers, support, anchor)
        params = {name: moved.get(name, before) for name, before in at.params.items()}
        return at._replace(params=params, state=state, number=at.number + 1), value

    def path(
        self, loss: Loss, params: Params, support: Examples, steps: int | None = None, context: Context = FIXED
    ) -> Iterator[tuple[Params, Tensor | None]]:
        """Yields the model's parameters after 0, 1, …, ``steps`` steps, each with the support loss before the step.

        Each is an ordinary function of ``params``, whose derivative is the one that ``derivative`` names.

        Args:
            loss: (parameters, examples) -> scalar.
            params: θ of one task.
            support: the task's support examples, [S, ...].
            steps: number of inner steps; None: those of training.
            context: holds α under ``lr``.
        """
        steps = self.steps if steps is None else steps
        at = self.begin(params)
        yield at.params, None
        theta = at.params
        if self.derivative.implicit:
            at = at._replace(params={name: value.detach() for name, value in theta.items()})
        for _ in range(steps):
            at, value = self.step(loss, at, support, steps, context)
            yield (self._linked(loss, theta, at, support, context) if self.derivative.implicit else at.params), value

    def adapted(
        self, loss: Loss, params: Params, support: Examples, steps: int | None = None, context: Context = FIXED
    ) -> Params:
        """Returns the model's parameters after the last step; see :meth:`path`.

        Args:
            loss: (parameters, examples) -> scalar.
            params: θ of one task.
            support: the task's support examples, [S, ...].
            steps: number of inner steps; None: those of training.
            context: holds α under ``lr``.
        """
        *_, (adapted, _) = self.path(loss, params, support, steps, context)
        return adapted

    def _divided(self, params: Params) -> tuple[Params, Params]:
        """Returns the parameters that move, and those that stay as they are."""
        moving = {name: value for name, value in params.items() if matches(name, self.adapt)}
        return moving, {name: value for name, value in params.items() if name not in moving}

    def _numbers(self, at: At, context: Context) -> RuleParams:
        rows = at.learned
        if self.rule.per_step:
            rows = {name: value[min(at.number, len(value) - 1)] for name, value in rows.items()}
        lr = context.numbers.get("lr")
        return {**rows, "lr": next(iter(at.params.values())).new_full((), self.lr) if lr is None else lr}

    def _linked(self, loss: Loss, theta: Params, at: At, support: Examples, context: Context) -> Params:
        """Returns the parameters φ of a point as a function of θ, by :meth:`ImplicitDerivative.solve`."""
        start, fixed = self._divided(theta)
        end = {name: at.params[name] for name in start}
        lr, derivative = self._numbers(at, context)["lr"], cast(ImplicitDerivative, self.derivative)

        def forward(*arguments: Any) -> Params:
            return {name: value.clone() for name, value in arguments[2].items()}

        def pull(arguments: Any, _: Params, vector: Params) -> Any:
            _, fixed, end, lr, support = arguments

            def gradients(moving: Params) -> Params:
                """Of all parameters, where those that move are ``moving``."""
                gradient: Params = grad(loss)({**fixed, **moving}, support)
                return gradient

            def product(vector: Params) -> Params:
                along: Params = jvp(gradients, (end,), (vector,))[1]
                return {name: along[name] for name in vector}

            x = derivative.solve(product, vector, lr)
            aside: dict[str, Tensor | None] = dict.fromkeys(fixed)
            if fixed and derivative.strength:  # φ depends on them too: -∂/∂fixed ∇L · x / λ
                along = jvp(gradients, (end,), (x,))[1]
                aside = {name: -along[name] / derivative.strength for name in fixed}
            return x, aside, dict.fromkeys(end), None, _without(support)

        linked = with_pull(forward, pull, start, fixed, end, lr, support)
        return {name: linked.get(name, value) for name, value in theta.items()}


@dataclass(frozen=True)
class _Step:
    """One inner step as a function of tensors, and its backward pass forward over reverse."""

    inner: Inner
    loss: Loss
    constant: bool

    def plain(
        self, moving: Params, fixed: Params, state: State, numbers: RuleParams, support: Examples, anchor: Params
    ) -> tuple[Params, State, Tensor]:
        """Returns moved parameters, state, and support loss."""
        gradient, value = self._gradient(moving, fixed, support, anchor)
        if self.constant:
            gradient = {name: part.detach() for name, part in gradient.items()}
        moved, state = self.inner.rule.update(gradient, state, moving, numbers)
        return moved, state, value.detach()

    def recomputed(
        self, moving: Params, fixed: Params, state: State, numbers: RuleParams, support: Examples
    ) -> tuple[Params, State, Tensor]:
        """Returns the same; the backward pass keeps the arguments and the gradient g, nothing of the model.

        With u the rule's update, the step is θ ↦ u(g(θ), θ). A cotangent c goes first through u, which costs next to
        nothing, to (c_g, c_θ); then through g, whose Jacobian is the symmetric Hessian H: c_θ + H c_g, where H c_g is
        one forward derivative of the gradient.
        """
        rule = self.inner.rule

        def forward(*arguments: Any) -> Any:
            moving, fixed, state, numbers, support = arguments
            gradient, value = self._gradient(moving, fixed, support, {})
            return *rule.update(gradient, state, moving, numbers), value.detach(), gradient

        def pull(arguments: Any, results: Any, cotangents: Any) -> Any:
            moving, fixed, state, numbers, support = arguments
            gradient = results[3]
            through = vjp(rule.update, gradient, state, moving, numbers)[1]
            of_gradient, of_state, of_moving, of_numbers = through(cotangents[:2])

            def gradients(moving: Params) -> Params:
                everything: Params = grad(self.loss)({**fixed, **moving}, support)
                return everything

            curved = jvp(gradients, (moving,), (of_gradient,))[1]
            of_moving = {name: value + curved[name] for name, value in of_moving.items()}
            of_fixed = {name: curved[name] for name in fixed}
            return of_moving, of_fixed, of_state, of_numbers, _without(support)

        moved, state, value, _ = with_pull(forward, pull, moving, fixed, state, numbers, support)
        return moved, state, value

    def _gradient(self, moving: Params, fixed: Params, support: Examples, anchor: Params) -> tuple[Params, Tensor]:
        def of_moving(moving: Params, support: Examples) -> Tensor:
            return self._whole({**fixed, **moving}, support, anchor)

        result: tuple[Params, Tensor] = grad_and_value(of_moving)(moving, support)
        return result

    def _whole(self, params: Params, support: Examples, anchor: Params) -> Tensor:
        """Returns what inner steps descend: the support loss, and λ/2 ‖θ' - anchor‖² where λ is above 0."""
        value = self.loss(params, support)
        for name, start in anchor.items():
            value = value + 0.5 * self.inner.derivative.strength * (params[name] - start).square().sum()
        return value


def _without(examples: Examples) -> Any:
    """The cotangent of examples, which nothing is differentiated by: None for each tensor."""
    return tree_map(lambda _: None, examples)
