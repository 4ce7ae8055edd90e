"""The measurement of memory over inner steps: all ways give one gradient, and cells that do not fit say so."""

import json
from typing import Any

import pytest
import torch

from benchmarks import inner_steps
from benchmarks.inner_steps import CASES, WAYS, cell, main, prepared

MLP = "MLP 1-40-40-1"


@pytest.mark.parametrize("way", [name for name, way in WAYS.items() if not way.implicit])
def test_every_exact_way_gives_the_gradient_of_the_loop(way: str) -> None:
    expected, found = prepared(CASES[MLP], WAYS["loop"], 3)(), prepared(CASES[MLP], WAYS[way], 3)()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_a_table_with_a_number_for_each_cell(capsys: Any) -> None:
    assert main(["--models", MLP, "--ways", "loop", "--steps", "1", "20"]) == 0
    captured = capsys.readouterr()
    few, many = (json.loads(line)["result"]["megabytes"] for line in captured.err.splitlines())
    assert 0 <= few < many
    assert "| 20 |" in captured.out


def test_a_cell_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inner_steps, "MOST_SECONDS", 0.1)
    assert cell(MLP, "loop", 1) == "took more than 0.1 s"
