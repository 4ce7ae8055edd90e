"""Programs that a server compiles for what it is asked often, and what becomes of requests where it cannot."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.registry.adapting import InnerLoop, vectorised
from cluster.serving import compiled
from cluster.serving.compiled import STEPS, Compiler, Compiling
from meta.engine.native.ir import Unsupported
from meta.episode import Examples

PARAMS = {"w": torch.linspace(-1, 1, 4)}


def step(params: Any, support: Any) -> Any:
    """One inner step of a linear regression."""

    def loss(w: Tensor) -> Tensor:
        return (support.inputs @ w - support.targets).square().mean()

    return {"w": params["w"] - 0.1 * torch.func.grad(loss)(params["w"])}


PATH = InnerLoop(step, lambda params, task: task[1] @ params["w"])


def tasks(count: int, examples: int = 5, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, examples, 9, generator=generator)
    return Examples(drawn[..., :4], drawn[..., 4]), drawn[..., 5:]


class Counted:
    """Programs of torch's, and how often they ran."""

    def __init__(self) -> None:
        self.calls = 0

    def adapt(self, what: Any, path: InnerLoop, params: Any, tasks: Any, steps: int) -> Tensor:
        self.calls += 1
        return vectorised(8).adapt(what, path, params, tasks, steps)


@pytest.fixture
def compiler() -> Any:
    found = Compiler(due=0.0)
    yield found
    found.close()


def settle(compiler: Compiler) -> None:
    """Wait for what is being compiled."""
    assert compiler.settle(60)


@pytest.fixture(autouse=True)
def _torch_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass a thousand times as fast, but for compiled programs."""

    def seconds() -> float:
        return 0.0 if threading.current_thread().name.startswith("compile") else 1000 * time.perf_counter()

    monkeypatch.setattr(compiled, "time", SimpleNamespace(thread_time=seconds))


def test_a_kind_that_takes_long_is_compiled_and_computes_the_same(compiler: Compiler):
    programs = Counted()
    run = Compiling(programs, compiler)
    run.adapt(0.1, PATH, PARAMS, tasks(3), 2)
    settle(compiler)
    assert (programs.calls, compiler.programs) == (1, 1)
    drawn = tasks(7, seed=1)
    expected = vectorised(8).adapt("any", PATH, PARAMS, drawn, 2)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: run.adapt(0.1, PATH, PARAMS, drawn, 2), range(30)))
    for outputs in found:
        torch.testing.assert_close(outputs, expected)
    assert programs.calls == 1
    run.adapt(0.1, PATH, PARAMS, tasks(3, examples=6), 2)
    run.adapt(0.2, PATH, PARAMS, tasks(3), 2)
    assert programs.calls == 3  # other kinds


def test_work_is_broken_off_between_tasks(compiler: Compiler):
    programs, begun = Counted(), []
    Compiling(programs, compiler).adapt(0.1, PATH, PARAMS, tasks(3), 2)
    settle(compiler)

    def proceed() -> None:
        begun.append(1)
        if len(begun) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        Compiling(programs, compiler, proceed).adapt(0.1, PATH, PARAMS, tasks(7), 2)
    assert (len(begun), programs.calls) == (3, 1)


def test_programs_may_be_recorded_by_several_threads():
    def record(number: int) -> None:
        compiler, programs = Compiler(due=0.0), Counted()
        try:
            for _ in range(3):
                Compiling(programs, compiler).adapt(0.1, PATH, PARAMS, tasks(1, examples=5 + number), 2)
                settle(compiler)
            assert (programs.calls, compiler.programs) == (1, 1)
        finally:
            compiler.close()

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(record, range(3)))


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
            run.adapt(0.1, PATH, PARAMS, tasks(3), 2)
            settle(compiler)
    assert (programs.calls, compiler.programs) == (3, 0)
    assert [reason in record.getMessage() for record in caplog.records] == [True]  # once


def test_what_is_not_worth_it_is_not_compiled(compiler: Compiler, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "Program", lambda *_, **__: pytest.fail("compiled"))
    run = Compiling(Counted(), compiler)
    run.adapt(0.1, PATH, PARAMS, tasks(3), STEPS + 1)
    lost = tasks(3)
    lost[1][0] = torch.inf
    run.adapt(0.1, PATH, PARAMS, lost, 2)  # its outputs cannot be compared
    settle(compiler)
    assert compiler.programs == 0


def test_so_many_kinds_and_programs_are_kept_at_most(compiler: Compiler, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "KINDS", 5)
    run = Compiling(Counted(), compiler)
    for number in range(20):
        run.adapt(float(number), PATH, PARAMS, tasks(1), 2)
    assert len(compiler._kinds) == 5
