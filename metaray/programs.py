"""Programs kept for modules: one for each module, loss and settings, used again at every further call.

A program is recorded (or compiled) from a copy of the module's structure; parameters and α are inputs of it. It is made
anew when anything else changes that it was recorded from: a layer, a plain attribute (a rate of dropout), a buffer, a
mode, or which parameters require a gradient.
"""

import warnings
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from cluster.errors import EngineError
from meta.algorithms import Algorithm, noise_size
from meta.context import context
from meta.engine.choice import choose, require_gradient
from meta.engine.native.ir import Unsupported
from meta.engine.strategies import STRATEGIES, Engine, Limits, build
from meta.episode import Episode, from_leaves, input_names, leaves, signature, unstack, with_noise
from meta.models.examine import examine
from meta.params import Params
from metaray.parts import InnerSettings, Loss, algorithm_of, model_of, objective_of

MOST = 8  # programs kept for a module

_kept: "weakref.WeakKeyDictionary[nn.Module, OrderedDict[Any, Program]]" = weakref.WeakKeyDictionary()


@dataclass
class Program:
    """An algorithm over a module under an engine.

    Attributes:
        engine: computes meta-gradients.
        frozen: names of the parameters that neither loop moves.
        draws: whether layers draw random numbers in the modes that they are in.
        algorithm: MAML over the module.
        held: objects whose identity is part of the key, so that no other object takes their place.
        sizes: random numbers per task, by the shapes of the tasks.
    """

    engine: Engine
    frozen: frozenset[str]
    draws: bool
    algorithm: Algorithm
    held: tuple[Any, ...]
    sizes: dict[Any, int] = field(default_factory=dict)

    def noisy(self, params: Params, episodes: Episode, generator: torch.Generator | None) -> Episode:
        """The episodes with the random numbers that layers draw, where they draw any.

        Args:
            params: θ.
            episodes: tasks, [T, ...].
            generator: CPU generator that the numbers are drawn from.

        Raises:
            ValueError: if layers draw and there is no generator.
        """
        if not self.draws:
            return episodes
        if generator is None:
            raise ValueError(
                "generator: expected a torch.Generator, since the module's layers draw random numbers in training mode "
                "(dropout), received none; pass generator=torch.Generator().manual_seed(0), the same one in every "
                "call, or put the module into evaluation mode with module.eval()"
            )
        shapes = signature(episodes)
        if shapes not in self.sizes:
            self.sizes[shapes] = noise_size(self.algorithm, params, unstack(episodes))
        uniform = torch.rand(len(episodes.description), self.sizes[shapes], generator=generator, dtype=torch.float64)
        example = next(iter(params.values()))
        # Multiples of 2^-24 and never 0 or 1, in every floating-point type.
        return with_noise(episodes, ((uniform * 2**23).floor() + 0.5).div(2**23).to(example))


def program_of(
    module: nn.Module,
    params: Params,
    loss: Loss,
    settings: InnerSettings,
    engine: str,
    episodes: Episode,
    generator: torch.Generator | None,
) -> Program:
    """The program of these arguments, kept from an earlier call or made now.

    Args:
        module: an instance.
        params: its parameters.
        loss: name or function.
        settings: of the inner loop.
        engine: ``auto`` or a strategy.
        episodes: tasks, [T, ...], to try a new program on.
        generator: source of random numbers for layers that draw.

    Raises:
        ValueError: if the module cannot be meta-learned, or no engine runs it.
        EngineError: if the engine that was asked for does not.
    """
    identity, held = _identity(loss)
    key = (identity, settings, engine, *_structure(module))
    kept = _kept.setdefault(module, OrderedDict())
    if key in kept:
        kept.move_to_end(key)
        return kept[key]
    made = _made(module, params, loss, settings, engine, episodes, generator)
    attributes = (value for layer in module.modules() for value in vars(layer).values() if _is_plain(value))
    made.held = (*held, *module.buffers(), *attributes)
    kept[key] = made
    if len(kept) > MOST:
        kept.popitem(last=False)
        warnings.warn(
            f"metaray.meta_gradient has made more than {MOST} programs for one {type(module).__name__}: pass the same "
            "loss and the same settings in every call, so that a program is used again",
            stacklevel=3,
        )
    return made


def _made(
    module: nn.Module,
    params: Params,
    loss: Loss,
    settings: InnerSettings,
    engine: str,
    episodes: Episode,
    generator: torch.Generator | None,
) -> Program:
    if engine != "auto" and engine not in STRATEGIES:
        raise ValueError(f"engine: expected one of auto, {', '.join(STRATEGIES)}, received '{engine}'")
    model = model_of(module)
    draws = examine(model, params, unstack(episodes).support.inputs)
    algorithm = cast(Algorithm, algorithm_of(model, params, objective_of(loss), settings))
    limits = Limits(threads=torch.get_num_threads())
    device = next(iter(params.values())).device
    unnamed = Engine("", None, None)  # type: ignore[arg-type]
    program = Program(unnamed, model.frozen, draws, algorithm, ())
    # The caller's generator gives the same numbers whether a program is made or kept.
    own = None if generator is None else torch.Generator().manual_seed(0)
    trial = program.noisy(params, from_leaves([leaf[:1] for leaf in leaves(episodes)], input_names(episodes)), own)
    if engine == "auto":
        name = choose(algorithm, params, trial, device, 0, limits, tried_at=(0,)).name
        program.engine = build(name, algorithm, limits)
        return program
    program.engine = build(engine, algorithm, limits)
    try:
        numbers = context(algorithm.numbers(0), next(iter(params.values())).dtype, device)
        require_gradient(program.engine, params, trial, numbers)
    except (Unsupported, RuntimeError) as error:
        raise EngineError(
            f"engine {engine} cannot compute this module's meta-gradient: {error}; leave the engine out to have one "
            "chosen that can"
        ) from error
    return program


def _identity(loss: Loss) -> tuple[Any, tuple[Any, ...]]:
    """Returns a key of a loss, and the objects that the key is of: a lambda written in a loop is one loss."""
    if isinstance(loss, MethodType):
        identity, held = _identity(loss.__func__)
        return (identity, _key(loss.__self__)), (*held, loss.__self__)
    if isinstance(loss, FunctionType):
        cells = tuple(cell.cell_contents for cell in loss.__closure__ or ())
        parts = (loss.__code__, *(loss.__defaults__ or ()), *(loss.__kwdefaults__ or {}).values(), *cells)
        return tuple(map(_key, parts)), parts
    return _key(loss), (loss,)


def _key(value: Any) -> Any:
    """Returns a key of a value that programs hold a copy of; it differs for other values, and after a change."""
    if isinstance(value, nn.Module):
        return id(value), *_structure(value), *map(_key, value.parameters())
    if isinstance(value, Tensor):
        return id(value), -1 if value.is_inference() else value._version  # counts changes in place
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    return value if value is None or isinstance(value, bool | int | float | str) else id(value)


def _structure(module: nn.Module) -> tuple[Any, ...]:
    """Returns a key of all that a recorded program depends on besides the parameters' values and the examples."""
    layers = tuple(
        (path, type(layer), *((name, _key(value)) for name, value in vars(layer).items() if _is_plain(value)))
        for path, layer in module.named_modules()
    )
    parameters = tuple(
        (name, value.shape, value.dtype, value.device, value.requires_grad) for name, value in module.named_parameters()
    )
    buffers = tuple((name, *_key(value)) for name, value in module.named_buffers())
    return layers, parameters, buffers


def _is_plain(value: Any) -> bool:
    """Tells whether an attribute of a layer is a number, a text, a tensor, or a list of such."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | Tensor)
