"""Any ``torch.nn.Module`` as a model."""

import copy
import inspect
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import _disable_current_modes

from meta.inputs import Inputs, length, names_of
from meta.models.elementary import Elementary
from meta.models.keyed import current
from meta.models.norm import BatchNormMode, with_context, without_context
from meta.models.output import Output, chosen
from meta.models.statistics import NORM_BUFFERS, RUNNING, Normalising, norm_layers, require_mode
from meta.params import Params


class TorchModel:
    """A ``torch.nn.Module`` as a pure function of its parameters.

    Buffers stay as the constructor left them, which runs under ``seed``. A layer that updates buffers while it
    computes has no place inside a differentiated inner loop and is refused. Batch norms are computed by the mode
    ``batch_norm`` (:mod:`meta.models.statistics`); one without running statistics normalises the batch at hand without
    being asked. Recurrent layers and attention are computed in elementary operations (:mod:`meta.models.elementary`).
    The module is in training mode while a meta-loss is computed, where random layers draw from the task's noise
    (:mod:`meta.models.keyed`), and in evaluation mode everywhere else.

    Attributes:
        batch_norm: whose statistics normalise query examples; None: there is no such layer.
        frozen: names of the parameters that the constructor left with ``requires_grad=False``, and under ``frozen``
            those of the running statistics. They belong to θ, so that they travel and are saved with it, and neither
            loop moves them.

    >>> model = TorchModel(lambda: nn.Linear(1, 1))
    >>> params = model.init(torch.Generator().manual_seed(0), torch.float32)
    >>> tuple(model.apply(params, torch.zeros(4, 1)).shape)
    (4, 1)
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        seed: int = 0,
        *,
        batch_norm: BatchNormMode | None = None,
        output: Output | None = None,
    ) -> None:
        """Wraps the module that ``make`` constructs.

        Args:
            make: constructs the module, drawing from torch's generator alone.
            seed: seed of torch's generator while ``make`` constructs the module's buffers.
            batch_norm: whose statistics normalise, see :mod:`meta.models.norm`; needed for running statistics.
            output: name or number of the output, if the module returns several; see :mod:`meta.models.output`.

        Raises:
            ValueError: if ``batch_norm`` does not suit the module's layers, or the module has no parameters, lazy or
                complex ones, or none that require a gradient.
        """
        self._make, self._seed, self._output = make, seed, output
        self._module = _constructed(make, seed)
        self._copies = threading.local()  # of this thread: functional_call puts parameters into the module for a while
        self.batch_norm = require_mode(self._module, batch_norm)
        self._mode = batch_norm  # None: torch's own functions normalise
        self._running = _running(self._module) if batch_norm == "frozen" else ()
        parameters = dict(self._module.named_parameters())
        _require_reals(type(self._module).__name__, parameters)
        still = frozenset(name for name, value in parameters.items() if not value.requires_grad)
        self.frozen = still | frozenset(self._running)
        if still == parameters.keys():
            raise ValueError(
                f"expected a module with parameters to train, received {type(self._module).__name__}, whose "
                f"{len(parameters)} parameters all have requires_grad=False"
            )

    @property
    def constants(self) -> Params:
        """Buffers that the module saves and that are no part of θ, as the constructor made them.

        Running statistics, which are in θ or not used at all, are left out, and so are counters of batches.
        """
        own = {f"{path}.{name}".lstrip(".") for path in norm_layers(self._module) for name in NORM_BUFFERS}
        buffers = dict(self._module.named_buffers())
        return {name: buffers[name] for name in self._module.state_dict() if name in buffers and name not in own}

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the parameters of a newly constructed module, and its running statistics if they are frozen.

        Module constructors draw from torch's global generator; it is set from ``generator`` inside a fork and
        restored afterwards.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.
        """
        module = _constructed(self._make, int(torch.randint(2**62, (), generator=generator)))
        theta = {**dict(module.named_parameters()), **{name: module.get_buffer(name) for name in self._running}}
        return {name: value.detach().to(dtype).clone() for name, value in theta.items()}

    def apply(self, params: Params, inputs: Inputs, context: Inputs | None = None) -> Tensor:
        """Returns the module's outputs [B, ...] with ``params`` in place of its own parameters.

        Args:
            params: by the names that :meth:`init` gives.
            inputs: [B, ...], the module's only argument; or several by name, which ``forward`` takes as keywords.
            context: examples [S, ...] whose statistics normalise under ``inductive``; None: those of ``inputs``.

        Raises:
            ValueError: if the module returns anything but a tensor, and ``output`` names none.
        """
        batch, support = with_context(inputs, context)
        norms = nullcontext() if self._mode is None else Normalising(self._mode, support, length(batch))
        arguments, named = ((), batch) if isinstance(batch, dict) else ((batch,), {})
        with Elementary(), norms:
            module = self.module(params, training=current() is not None)
            returned = functional_call(module, params, arguments, named)
        return without_context(chosen(returned, self._output, type(self._module).__name__), support)

    def module(self, params: Params, *, training: bool) -> nn.Module:
        """Returns this thread's copy of the module for the dtype and device of ``params``.

        Floating-point buffers have the parameters' dtype.

        Args:
            params: their first tensor gives dtype and device.
            training: whether the module is in training mode or in evaluation mode.
        """
        example = next(iter(params.values()))
        key = (training, example.dtype, example.device)
        kept: dict[Any, nn.Module] = self._copies.__dict__.setdefault("modules", {})
        if key not in kept:
            # The copy outlives the recording or the transform in which it is made; its buffers may not be of these.
            with temporarily_clear_interpreter_stack(), _disable_current_modes():
                kept[key] = self._copied(training, example.dtype, example.device)
        return kept[key]

    def _copied(self, training: bool, dtype: torch.dtype, device: torch.device) -> nn.Module:
        shared = {id(value): value for value in self._module.parameters()}
        module = copy.deepcopy(self._module, shared).train(training)
        if self._mode is not None:
            for norm in norm_layers(module).values():
                norm.training = False  # counts no batches
        for layer in module.modules():
            for name, buffer in layer._buffers.items():
                if buffer is not None:
                    own = dtype if buffer.is_floating_point() else buffer.dtype
                    layer._buffers[name] = buffer.to(dtype=own, device=device)
        return module

    def require_takes(self, inputs: Inputs) -> None:
        """Checks that ``forward`` takes the inputs of a family: all of their names, and no other argument is missing.

        Args:
            inputs: one tensor, or several by name.

        Raises:
            ValueError: naming the argument, and what there is.
        """
        names, module = names_of(inputs), type(self._module).__name__
        try:
            declared = inspect.signature(self._module.forward).parameters.values()
        except (TypeError, ValueError):  # code without a signature: the first call will tell
            return
        by_name = [one for one in declared if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        taken, needed = ([one.name for one in by_name], [one.name for one in by_name if one.default is one.empty])
        # forward(*args, **kwargs) passes everything on. Beside named arguments, `**kwargs` often drops what it gets.
        open_to_all = not taken and any(one.kind is one.VAR_KEYWORD for one in declared)
        if unknown := [name for name in names if name not in taken and not open_to_all]:
            raise ValueError(
                f"expected inputs by names that the forward of {module} declares ({', '.join(taken) or 'none'}), "
                f"received '{unknown[0]}'; rename it in the family, or give forward an argument of this name"
            )
        missing = [name for name in needed if name not in names] if names else needed[1:]
        if missing:
            received = ", ".join(names) or "one tensor"
            raise ValueError(
                f"expected all inputs that the forward of {module} needs ({', '.join(needed)}), received {received}; "
                f"give the family's spec and its episodes '{missing[0]}' by name (spec.inputs)"
            )

    def require_repeatable(self) -> None:
        """Checks that the constructor draws from torch's generator alone; every worker constructs the module anew.

        Raises:
            ValueError: naming a parameter or buffer that differs between two constructions.
        """
        first, second = (dict(_constructed(self._make, self._seed).state_dict()) for _ in range(2))
        for name, value in first.items():
            if not torch.equal(value, second[name]):
                raise ValueError(
                    f"expected a constructor that gives the same module under the same torch.manual_seed, received "
                    f"another '{name}' of {type(self._module).__name__} the second time; draw from torch's generator, "
                    "not from numpy's or random's"
                )


def _running(module: nn.Module) -> tuple[str, ...]:
    """Names of the module's running statistics."""
    return tuple(f"{path}.{name}".lstrip(".") for path in norm_layers(module) for name in RUNNING)


def _constructed(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _require_reals(name: str, parameters: dict[str, nn.Parameter]) -> None:
    if not parameters:
        raise ValueError(f"expected a module with parameters, received {name}")
    for parameter, value in parameters.items():
        if is_lazy(value):
            raise ValueError(
                f"expected parameters of known shapes, received '{parameter}' of a lazy layer in {name}; give the "
                "layer its sizes"
            )
        if not value.is_floating_point():
            raise ValueError(
                f"expected parameters of real numbers, received '{parameter}' of {value.dtype} in {name}; keep complex "
                "numbers as two real parameters (torch.view_as_complex), whole numbers as a buffer"
            )
