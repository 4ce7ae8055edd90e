"""What a machine may lack for compiled programs, and what ``auto`` makes of it."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from meta.algorithms import MAML
from meta.context import FIXED, Context
from meta.engine.choice import choose, rules
from meta.engine.native import toolchain
from meta.engine.native.toolchain import NoCompiler, probe
from meta.engine.strategies import STRATEGIES, build
from meta.episode import Episode, Examples, stack
from meta.inner import Inner
from meta.models import MLP
from meta.objectives import MSE
from meta.params import Params

ALGORITHM = MAML(model=MLP(inputs=(1,), outputs=1, hidden=(3,)), objective=MSE, inner=Inner(lr=0.1, steps=1))
PARAMS = ALGORITHM.init(torch.Generator().manual_seed(0), torch.float32)
EXAMPLES = Examples(torch.linspace(-1, 1, 4)[:, None], torch.linspace(0, 1, 4)[:, None])
EPISODES = stack([Episode(EXAMPLES, EXAMPLES, torch.zeros(0))] * 2)
MANY = 10**9


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No compiler is known yet, and nothing compiled."""
    monkeypatch.setenv("METARAY_CACHE", str(tmp_path / "cache"))
    for known in (toolchain.compiler, toolchain._machine):
        known.cache_clear()
    yield
    for known in (toolchain.compiler, toolchain._machine):
        known.cache_clear()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make CXX a script."""

    def install(body: str) -> None:
        script = tmp_path / "c++"
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))

    return install


VERSION = 'if [ "$1" = --version ]; then echo 1.0; exit 0; fi\n'
TO_OUTPUT = 'while [ "$1" != -o ]; do shift; done\n'
COMPILERS = {
    "fails at once": ("exit 1", "failed with status 1"),
    "fails with the program": (VERSION + "echo 'x.cpp:1: error: no such thing' >&2; exit 1", "error: no such thing"),
    "makes nothing": (VERSION + "exit 0", "made no program"),
    "makes nonsense": (VERSION + TO_OUTPUT + 'echo nonsense > "$2"', "cannot be loaded"),
    "makes something else": (
        VERSION + TO_OUTPUT + 'echo "int x;" > "$2.c"; cc -shared -fPIC -o "$2" "$2.c"',
        "cannot be loaded",
    ),
    "is killed": (VERSION + "kill -9 $$", "failed with status -9"),
}


@pytest.mark.parametrize("name", COMPILERS)
def test_auto_falls_back_from_a_compiler_that_does_not_compile(name: str, compiler: Callable[[str], None]) -> None:
    body, reason = COMPILERS[name]
    compiler(body)
    choice = choose(ALGORITHM, PARAMS, EPISODES, torch.device("cpu"), MANY)
    assert choice.name == "trace"
    assert choice.warning is not None
    assert reason in choice.warning
    assert reason in choice.passed_over["native"]
    with pytest.raises(NoCompiler, match="engine native cannot run this"):
        build("native", ALGORITHM).meta_gradient(PARAMS, EPISODES)


def test_a_compiler_that_hangs_is_given_up(compiler: Callable[[str], None]) -> None:
    compiler("exec sleep 60")
    with pytest.raises(NoCompiler, match=r"did not end within 0\.2 s"):
        toolchain._run([*toolchain.compiler(), "--version"], timeout=0.2)


def test_a_compiler_that_computes_wrongly_is_found_out(
    compiler: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "PROBE", toolchain.PROBE.replace("2 * theta", "3 * theta"))
    with pytest.raises(NoCompiler, match=r"computes 63\.0 where 42 is right"):
        probe()


def _is_a_file(place: Path, patch: pytest.MonkeyPatch) -> None:
    place.write_text("")
    patch.setenv("METARAY_CACHE", str(place))


def _no_home(place: Path, patch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise RuntimeError("Could not determine home directory.")

    patch.delenv("METARAY_CACHE")
    patch.setattr(Path, "home", missing)


def _home_cannot_be_written(place: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("METARAY_CACHE")
    patch.setenv("HOME", "/proc/nowhere")


def _others_write(place: Path, patch: pytest.MonkeyPatch) -> None:
    (place / "native").mkdir(parents=True)
    (place / "native").chmod(0o777)
    patch.setenv("METARAY_CACHE", str(place))


def _disk_is_full(place: Path, patch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(toolchain.tempfile, "TemporaryDirectory", full)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_is_a_file, "Not a directory"),
        (_no_home, "no folder to keep programs in"),
        (_home_cannot_be_written, "/proc/nowhere"),
        (_others_write, "others can write to"),
        (_disk_is_full, "No space left on device"),
    ],
)
def test_auto_falls_back_from_a_cache_that_cannot_be_used(
    spoil: Callable[[Path, pytest.MonkeyPatch], None], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(tmp_path / "place", monkeypatch)
    choice = choose(ALGORITHM, PARAMS, EPISODES, torch.device("cpu"), MANY)
    assert choice.name == "trace"
    assert reason in str(choice.warning)


def test_a_program_that_others_can_write_to_is_not_loaded() -> None:
    probe()
    (program,) = toolchain.folder().glob("*.so")
    assert stat.S_IMODE(program.stat().st_mode) & 0o022 == 0
    program.chmod(0o777)
    with pytest.raises(NoCompiler, match="others can write to"):
        probe()


def test_the_cache_belongs_to_its_user_alone() -> None:
    probe()
    assert stat.S_IMODE(toolchain.folder().stat().st_mode) == 0o700
    assert toolchain.folder().stat().st_uid == os.getuid()


# ---- models that a strategy cannot run ------------------------------------------------------------------------------


class Branching:
    """A model whose operations depend on the numbers in them."""

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        return {"w": torch.ones(1, 1, dtype=dtype)}

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        outputs = inputs @ params["w"]
        return 2 * outputs if float(outputs.detach()[-1]) > 0 else outputs


class Unscorable(MAML):
    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        return torch.zeros(3)


def test_a_model_that_cannot_be_recorded_runs_without_recording() -> None:
    algorithm = MAML(model=Branching(), objective=MSE, inner=Inner(lr=0.1, steps=1))
    params = algorithm.init(torch.Generator(), torch.float32)
    choice = choose(algorithm, params, EPISODES, torch.device("cpu"), MANY, tried_at=(0, 1))
    assert choice.name == "eager"
    assert {"trace", "loop"} <= choice.passed_over.keys()
    engine = build("eager", algorithm)
    gradient = engine.meta_gradient(params, EPISODES).gradient["w"]

    def total(w: float) -> float:
        at = {"w": torch.tensor([[w]], dtype=torch.float64)}
        episode = Episode(*(Examples(*(p.double() for p in part)) for part in (EXAMPLES, EXAMPLES)), torch.zeros(0))
        return 2 * float(algorithm.meta_loss(at, episode)[0])

    assert float(gradient) == pytest.approx((total(1 + 1e-5) - total(1 - 1e-5)) / 2e-5, rel=1e-5)
    assert engine.scores(params, EPISODES, (0, 1)).shape == (2, 2)


def test_what_no_strategy_runs_is_refused_with_the_reason() -> None:
    algorithm = Unscorable(model=MLP(inputs=(1,), outputs=1, hidden=(3,)), objective=MSE, inner=Inner(lr=0.1, steps=1))
    with pytest.raises(ValueError, match=r"no engine runs.*expected 2 numbers, one for each.*received shape \(3,\)"):
        choose(algorithm, PARAMS, EPISODES, torch.device("cpu"), 1, tried_at=(0, 1))


def test_the_strategies_without_recording_agree() -> None:
    assert "eager" in STRATEGIES
    one, other = (build(name, ALGORITHM).meta_gradient(PARAMS, EPISODES) for name in ("eager", "loop"))
    for name, value in one.gradient.items():
        torch.testing.assert_close(value, other.gradient[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"cpu": {}}', '{"cpu": {"native_tasks": "many"}}'])
def test_the_shipped_rule_holds_where_none_was_measured(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = rules.__wrapped__()
    if text is not None:
        (tmp_path / "rule.json").write_text(text)
    for place in (tmp_path, Path("/etc/hostname"), tmp_path / "nowhere"):
        monkeypatch.setenv("METARAY_CACHE", str(place))
        assert rules.__wrapped__() == shipped
    monkeypatch.delenv("METARAY_CACHE")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert rules.__wrapped__() == shipped


def test_a_rule_that_was_measured_here_takes_the_shipped_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {"native_tasks": 7, "native_convolution_tasks": 8, "vectorised_images": 9}
    (tmp_path / "rule.json").write_text(json.dumps({"cpu": measured}))
    monkeypatch.setenv("METARAY_CACHE", str(tmp_path))
    assert rules.__wrapped__()["cpu"] == measured
