"""Reading questions, answering them together, and programs for shapes that come again."""

import json
import threading
from typing import Any

import numpy as np
import pytest
import torch

from cluster.registry.adapting import Adaptable, vectorised
from cluster.registry.fields import Field, checked
from cluster.serving.batching import Batcher
from cluster.serving.forms import JSON
from cluster.serving.limits import Limits, Refused
from cluster.serving.programs import KEPT, RECORDED_AT, Programs
from cluster.serving.requests import Question, read
from cluster.serving.server import exposed

SECONDS = 20.0


class Mean(Adaptable):
    """Answers each query with the mean of its task's support; negative ones diverge, 13 is a fault of the model's."""

    inner_steps, inner_lr = 1, 0.1

    def __init__(self) -> None:
        self.inputs = (
            Field("support_inputs", "float64", ("T", "S", 2)),
            Field("support_targets", "int64", ("T", "S")),
            Field("pixels", "uint8", ("T", "S")),
            Field("ended", "bool", ("T",)),
        )
        self.output = Field("predictions", "float64", ("T", "Q"))
        self.batches: list[list[float]] = []
        self.entered, self.go_on = threading.Event(), threading.Event()

    def check(self, given: Any, inner_steps: int, inner_lr: float) -> dict[str, Any]:
        return checked(self.inputs, given)

    def adapted(self, arrays: Any, inner_steps: int, inner_lr: float, run: Any = None) -> Any:
        means = arrays["support_inputs"].mean(axis=(1, 2))
        self.batches.append(means.tolist())
        self.entered.set()
        assert self.go_on.wait(SECONDS)
        if 13 in means:
            raise RuntimeError("a fault")
        return np.where(means < 0, np.nan, means)[:, None]


def arrays(value: float, support: int = 3, tasks: int = 1) -> dict[str, Any]:
    return {
        "support_inputs": np.full((tasks, support, 2), value),
        "support_targets": np.zeros((tasks, support), np.int64),
        "pixels": np.zeros((tasks, support), np.uint8),
        "ended": np.zeros(tasks, bool),
    }


def body(**changes: Any) -> bytes:
    inputs = {name: array.tolist() for name, array in arrays(1.0).items()}
    return json.dumps({"inputs": {name: value for name, value in (inputs | changes).items() if value != ()}}).encode()


def test_a_question_is_read():
    text = json.dumps({"inputs": {n: a.tolist() for n, a in arrays(2.5, tasks=2).items()}, "params": {"inner_lr": 1}})
    found = read(text.encode(), JSON, Mean(), Limits())
    assert (found.tasks, found.inner_steps, found.inner_lr) == (2, 1, 1.0)
    for name, array in arrays(2.5, tasks=2).items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)
    whole = read(body(support_inputs=[[[1, 2], [3, 4], [5, 6]]]), JSON, Mean(), Limits())
    assert whole.arrays["support_inputs"].sum() == 21


BAD = {
    b"": "body: expected JSON",
    b"\xff\xfe\x00": "body: expected JSON",
    b"[" * 100_000: "nested too deep",
    b'{"a":' * 100_000: "nested too deep",
    b'{"inputs": ' + b"1" * 5000 + b"}": "body: expected JSON",
    b'{"inputs": NaN}': "NaN is no JSON",
    b'{"inputs": {}, "inputs": {}}': 'expected each name once, received "inputs" twice',
    b'{"inputs": {"pixels": [], "pixels": []}}': 'received "pixels" twice',
    b'{"inputs": {}, "params": {"inner_lr": 1, "inner_steps": 1, "inner_lr": 2}}': 'received "inner_lr" twice',
    b"[]": "body: expected an object, received a list; inputs are support_inputs .*",
    b"{}": "inputs: missing; give it a value; inputs are support_inputs .*",
    b'{"instances": []}': r"instances: unknown key.*\(valid: inputs, params\)",
    b'{"\\ud800": []}': r'body: expected .*, received "\\ud800"',
    b'{"inputs": {"x": 1}}': r"inputs.x: unknown key.* \(valid: support_inputs, .*\)",
    b'{"inputs": {}, "params": 3}': "params: expected an object, received 3",
    b'{"inputs": {}, "params": {"lr": 3}}': r"params.lr: unknown key \(valid: inner_steps, inner_lr\)",
    b'{"inputs": {}, "params": {"inner_steps": 1.5}}': "params.inner_steps: expected a valid integer, received 1.5",
    b'{"inputs": {}, "params": {"inner_steps": true}}': "params.inner_steps: expected a valid integer, received true",
    b'{"inputs": {}, "params": {"inner_steps": -1}}': "inner_steps: expected greater than or equal to 0, received -1",
    b'{"inputs": {}, "params": {"inner_steps": 1' + b"0" * 4000 + b"}}": "inner_steps: expected less .* to 100, .*00…",
    b'{"inputs": {}, "params": {"inner_lr": "1"}}': 'params.inner_lr: expected a valid number, received "1"',
    b'{"inputs": {}, "params": {"inner_lr": 1' + b"0" * 400 + b"}}": "inner_lr: expected a valid number, .*00…",
    body(ended=()): r"inputs.ended: missing.*inputs are .*ended \[T\] bool",
    body(support_inputs=3): r"support_inputs: expected a valid list, received 3;.* support_inputs \[T, S, 2\] float64",
    body(support_inputs=[[[1, 2], None]]): "inputs.support_inputs.0.1: expected a valid list, received null",
    body(support_inputs=[[[1, 2], [1]]]): "inputs.support_inputs.0.1: expected at least 2 items, received 1",
    body(support_targets=[[1, 2], [1]]): "inputs.support_targets: expected lists of equal lengths",
    body(support_inputs=[[[1, [2]]]]): "inputs.support_inputs.0.0.1: expected a valid number, received a list",
    body(support_inputs=[[[1, "2"]]]): 'inputs.support_inputs.0.0.1: expected a valid number, received "2"',
    body(support_inputs=[[[1, True]]]): "inputs.support_inputs.0.0.1: expected a valid number, received true",
    body(support_inputs=[[[1, 10**400]]]): "inputs.support_inputs.0.0.1: expected a valid number, received 10000",
    body(support_inputs=[]): "support_inputs .*",
    body(support_targets=[[1.0, 0, 0]]): "inputs.support_targets.0.0: expected a valid integer, received 1.0",
    body(support_targets=[[2**70, 0, 0]]): "support_targets.0.0: expected less than or equal to 9223372036854775807",
    body(pixels=[[256, 0, 0]]): "pixels .*expected whole numbers that uint8 holds",
    body(pixels=[[-1, 0, 0]]): "pixels .*expected whole numbers that uint8 holds",
    body(pixels=[[1, 2]]): "pixels .*expected 3 support examples as in support_inputs, received 2",
    body(ended=[0]): "inputs.ended.0: expected a valid boolean, received 0",
    body().replace(b"1.0", b"1e999"): "support_inputs .*expected finite numbers",
    body(
        **{n: a.tolist() for n, a in arrays(1.0, tasks=65).items()}
    ): "expected at most 64 tasks a request, received 65",
}


@pytest.mark.parametrize(("sent", "reason"), BAD.items(), ids=range(len(BAD)))
def test_what_is_wrong_is_said(sent: bytes, reason: str):
    with pytest.raises(Refused, match=reason) as caught:
        read(sent, JSON, Mean(), Limits())
    assert caught.value.status == 400
    assert len(caught.value.reason) < 1100


@pytest.fixture
def model() -> Mean:
    return Mean()


def question(value: float, support: int = 3, tasks: int = 1) -> Question:
    return Question(arrays=arrays(value, support, tasks), inner_steps=1, inner_lr=0.1)


def test_what_waits_is_answered_together(model: Mean):
    batcher = Batcher(model, threads=1)
    first = batcher.ask(question(0))
    assert model.entered.wait(SECONDS)
    later = [batcher.ask(question(value, support)) for value, support in ((1, 3), (2, 4), (3, 3), (4, 4), (5, 3))]
    assert later[2].cancel()
    model.go_on.set()
    found = [one.result(SECONDS).tolist() for one in [first, *later] if not one.cancelled()]
    assert found == [[[0]], [[1]], [[2]], [[4]], [[5]]]
    assert model.batches == [[0], [1, 5], [2, 4]]
    batcher.close()
    assert not batcher.is_alive


def test_a_batch_has_so_many_tasks_at_most_and_leaves_others_their_share(model: Mean):
    batcher = Batcher(model, threads=1)
    first = batcher.ask(question(0))
    assert model.entered.wait(SECONDS)
    later = [batcher.ask(question(value, tasks=tasks)) for value, tasks in ((1, 20), (2, 12), (3, 1), (4, 50))]
    model.go_on.set()
    assert [len(one.result(SECONDS)) for one in [first, *later]] == [1, 20, 12, 1, 50]
    assert [len(batch) for batch in model.batches] == [1, 32, 1, 50]
    batcher.close()


def test_neighbours_of_a_bad_task_are_answered(model: Mean):
    batcher = Batcher(model, threads=1)
    batcher.ask(question(0))
    assert model.entered.wait(SECONDS)
    good, diverging, fault, last = (batcher.ask(question(value)) for value in (1, -1, 13, 2))
    model.go_on.set()
    assert (good.result(SECONDS).tolist(), last.result(SECONDS).tolist()) == ([[1]], [[2]])
    with pytest.raises(Refused, match="adaptation diverged") as caught:
        diverging.result(SECONDS)
    assert caught.value.status == 400
    with pytest.raises(Refused, match="received RuntimeError") as caught:
        fault.result(SECONDS)
    assert caught.value.status == 500
    batcher.close()


def test_closing_answers_what_waits(model: Mean):
    batcher = Batcher(model, threads=2)
    answers = [batcher.ask(question(value)) for value in range(9)]
    model.go_on.set()
    batcher.close()
    assert [one.result(0).item() for one in answers] == list(range(9))


def gradient(params: Any, task: Any) -> Any:
    inputs, targets = task
    return torch.func.grad(lambda w: (inputs @ w - targets).square().mean())(params["w"])


@pytest.mark.parametrize("tasks", [1, 3, 40])
def test_programs_compute_what_the_function_does(tasks: int):
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(tasks, 5, 4, generator=generator), torch.randn(tasks, 5, generator=generator))
    params, programs = {"w": torch.ones(4)}, Programs()
    expected = vectorised(8)("any", gradient, params, drawn)
    for _ in range(RECORDED_AT + 2):
        torch.testing.assert_close(programs("any", gradient, params, drawn), expected)


def test_programs_are_kept_for_so_many_shapes_at_most():
    programs, calls = Programs(), []

    def function(params: Any, task: Any) -> Any:
        calls.append(1)
        return task * params["w"]

    def run(size: int) -> None:
        programs(0, function, {"w": torch.ones(())}, torch.ones(1, size))

    for _ in range(RECORDED_AT):
        run(1)
    before = len(calls)
    run(1)
    assert len(calls) == before  # replayed
    for size in range(2, KEPT + 3):
        run(size)
    before = len(calls)
    run(1)
    assert len(calls) == before + 1  # forgotten


def test_a_warning_where_other_machines_reach_it():
    assert exposed("127.0.0.1", has_token=False, has_tls=False) is None
    assert exposed("::1", has_token=False, has_tls=False) is None
    assert "no authentication" in str(exposed("0.0.0.0", has_token=False, has_tls=True))
    assert "no encryption" in str(exposed("192.168.0.3", has_token=True, has_tls=False))
    assert exposed("192.168.0.3", has_token=True, has_tls=True) is None
