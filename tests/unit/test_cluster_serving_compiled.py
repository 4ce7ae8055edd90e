"""Programs that a server compiles for what it is asked often, and what becomes of requests where it cannot."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.registry.adapting import vectorised
from cluster.serving import compiled
from cluster.serving.compiled import STEPS, Compiler, Compiling
from meta.episode import Examples
from meta.native.ir import Unsupported

PARAMS = {"w": torch.linspace(-1, 1, 4)}


def adapted(params: Any, task: Any) -> Tensor:
    """One inner step of a linear regression, then its values for the queries."""
    support, queries = task

    def loss(w: Tensor) -> Tensor:
        return (support.inputs @ w - support.targets).square().mean()

    return queries @ (params["w"] - 0.1 * torch.func.grad(loss)(params["w"]))


def tasks(count: int, examples: int = 5, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, examples, 9, generator=generator)
    return Examples(drawn[..., :4], drawn[..., 4]), drawn[..., 5:]


class Counted:
    """Programs of torch's, and how often they ran."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, what: Any, function: Any, params: Any, tasks: Any) -> Tensor:
        self.calls += 1
        return vectorised(8)(what, function, params, tasks)


@pytest.fixture
def compiler() -> Any:
    found = Compiler(threading.Lock(), due=0.0)
    yield found
    found.close()


def settle(compiler: Compiler) -> None:
    """Wait for what is being compiled."""
    compiler._worker.submit(lambda: None).result(60)


@pytest.fixture(autouse=True)
def _torch_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.time, "thread_time", iter([0.0, 1000.0, *[0.0] * 1000]).__next__)


def test_a_kind_that_takes_long_is_compiled_and_computes_the_same(compiler: Compiler):
    programs = Counted()
    run = Compiling(programs, compiler)
    run((1, 0.1), adapted, PARAMS, tasks(3))
    settle(compiler)
    assert (programs.calls, compiler.programs) == (1, 1)
    drawn = tasks(7, seed=1)
    expected = vectorised(8)("any", adapted, PARAMS, drawn)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: run((1, 0.1), adapted, PARAMS, drawn), range(30)))
    for outputs in found:
        torch.testing.assert_close(outputs, expected)
    assert programs.calls == 1
    run((1, 0.1), adapted, PARAMS, tasks(3, examples=6))
    run((1, 0.2), adapted, PARAMS, tasks(3))
    assert programs.calls == 3  # other kinds


def test_work_is_broken_off_between_tasks(compiler: Compiler):
    run = Compiling(Counted(), compiler)
    run((1, 0.1), adapted, PARAMS, tasks(3))
    settle(compiler)
    begun: list[int] = []

    def proceed() -> None:
        begun.append(1)
        if len(begun) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        compiler.run((1, 0.1), adapted, PARAMS, tasks(7), lambda: pytest.fail("computed by torch"), proceed)


def never(*_: Any, **__: Any) -> Any:
    raise Unsupported("no C++ compiler on this machine")


def wrong(*arguments: Any, **options: Any) -> Any:
    return lambda params, episode: torch.full((1, 5), 3.0)


@pytest.mark.parametrize(("program", "reason"), [(never, "no C++ compiler"), (wrong, "off torch's outputs")])
def test_requests_go_on_where_there_is_no_good_program(
    compiler: Compiler, program: Any, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(compiled, "Program", program)
    programs = Counted()
    run = Compiling(programs, compiler)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            run((1, 0.1), adapted, PARAMS, tasks(3))
            settle(compiler)
    assert (programs.calls, compiler.programs) == (3, 0)
    assert [reason in record.getMessage() for record in caplog.records] == [True]  # once


def test_what_is_not_worth_it_is_not_compiled(compiler: Compiler, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "Program", lambda *_, **__: pytest.fail("compiled"))
    run = Compiling(Counted(), compiler)
    run((STEPS + 1, 0.1), adapted, PARAMS, tasks(3))
    run(("step", 0.1), lambda params, task: task[1].sum(), {}, tasks(3))
    lost = tasks(3)
    lost[1][0] = torch.inf
    run((1, 0.1), adapted, PARAMS, lost)  # its outputs cannot be compared
    settle(compiler)
    assert compiler.programs == 0


def test_so_many_kinds_and_programs_are_kept_at_most(compiler: Compiler, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "KINDS", 5)
    run = Compiling(Counted(), compiler)
    for number in range(20):
        run((1, float(number)), adapted, PARAMS, tasks(1))
    assert len(compiler._kinds) == 5
