"""The rooms of the project: who may import whom, and how large a room may grow. Read from the sources."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("meta", "tasks", "benchmarks", "cluster", "metaray")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAY_IMPORT = {
    "meta": {"meta", "torch"},
    "tasks": {
        "tasks",
        "meta",
        "torch",
        "numpy",
        "pyarrow",
        "torchvision",
        "gymnasium",
        "mujoco",
        "PIL",
        "filelock",
        "matplotlib",
    },
    # It runs where only torch and numpy are installed; the peers are imported where they are asked for.
    "benchmarks": {"benchmarks", "meta", "torch", "numpy", "tasks", "higher", "jax", "learn2learn", "torchopt"},
    # The front door re-exports: what is behind it keeps its own doors.
    "metaray": {"metaray", "meta", "tasks", "cluster", "torch", "numpy", "pandas", "matplotlib", "rich"},
}
# Libraries with a door of their own: nobody else imports them.
DOORS = {
    "ray": {
        *(
            "cluster.workers.actor",
            "cluster.workers.autoscaler",
            "cluster.bench.ray_serve",
            "cluster.jobs.client",
            "cluster.workers.head",
            "cluster.workers.member",
            "cluster.workers.nodes",
            "cluster.workers.ray_pool",
            "cluster.workers.relay_actor",
            "cluster.workers.remote",
            "cluster.workers.session",
        ),
        *(f"cluster.search.{module}" for module in ("halving", "schedulers", "tuner", "watch")),
    },
    "optuna": {"cluster.search.tpe"},
    "mlflow": {
        *(f"cluster.registry.{module}" for module in ("client", "pyfunc", "served")),
        *(f"cluster.tracking.{module}" for module in ("machine", "replay", "sender", "server")),
    },
    "torchvision": {"tasks.vision"},
    "typer": {
        f"cluster.commands.{path.stem}"
        for path in (ROOT / "cluster" / "commands").glob("*.py")
        if path.stem != "tables"
    },
    "starlette": {
        "cluster.bench.ray_serve",
        *(
            f"cluster.serving.{module}"
            for module in ("access", "answers", "app", "connections", "encoding", "receiving")
        ),
    },
    "uvicorn": {"cluster.serving.connections", "cluster.serving.server"},
    "PIL": {"cluster.bench.forms", "cluster.serving.images", "tasks.data.decode", "tasks.data.sources.glyphs"},
    "prometheus_client": {"cluster.serving.metrics"},
    "python_multipart": {"cluster.serving.images"},
    "filelock": {"cluster.runs.folder", "cluster.tracking.spool", "tasks.data.cache", "tasks.data.places"},
    "mujoco": {"tasks.environments.mujoco"},
    "higher": {"benchmarks.peers.higher_peer"},
    "jax": {"benchmarks.peers.jax_models", "benchmarks.peers.jax_peer"},
    "learn2learn": {"benchmarks.peers.learn2learn_peer"},
    "torchopt": {"benchmarks.peers.torchopt_peer"},
    "pandas": {f"metaray.{module}" for module in ("evaluations", "models", "results", "runs")},
    "matplotlib": {
        *(f"metaray.{module}" for module in ("evaluations", "models", "results", "runs")),  # names of types alone
        "tasks.data.sources.glyphs",
        *(f"cluster.reports.figures.{module}" for module in ("curves", "images", "policies", "scores", "style")),
        *(
            f"cluster.reports.figures.{module}"
            for module in ("compared", "coordinates", "landscapes", "rulers", "searches", "trials")
        ),
    },
}
# The rooms of cluster, from the lowest floor up; a room imports those below it.
FLOORS = (
    {"errors", "interrupts", "own_packages"},
    {"config"},
    {"progress"},
    {"runs"},
    {"workers"},
    {"setups"},
    {"tracking", "jobs"},
    {"evaluation"},
    {"reports", "registry", "history"},
    {"training", "serving"},
    {"search", "bench", "adapt"},
    {"compare", "doctor"},
    {"reproduce"},
    {"commands"},
    {"__main__"},
)
ROOMS = {"ray": {"workers", "search", "jobs", "bench"}, "mlflow": {"tracking", "registry"}}  # libraries by room
STANDARD = sys.stdlib_module_names


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            # `from a import b` may name a module b of package a.
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_stay_within_the_rooms(path):
    package = name_of(path).split(".")[0]
    roots = {name.split(".")[0] for name in imports(path)} - STANDARD
    if package in MAY_IMPORT:
        assert roots <= MAY_IMPORT[package]
    for library, doors in DOORS.items():
        assert library not in roots or name_of(path) in doors


INSIDE = [path for path in SOURCES if name_of(path).startswith("cluster.")]


@pytest.mark.parametrize("path", INSIDE, ids=name_of)
def test_no_room_imports_one_above_it(path):
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    own = name_of(path).split(".")[1]
    for name in sorted(imports(path)):
        package, *rooms = name.split(".")
        if package == "cluster" and rooms and rooms[0] in floor and rooms[0] != own:
            assert floor[rooms[0]] < floor[own], name
        assert package not in ROOMS or own in ROOMS[package], name


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").rglob("*.py")), ids=name_of)
def test_benchmarks_run_alone(path):
    # Only the family that workers draw from knows what a family is.
    assert name_of(path) == "benchmarks.families" or not any(name.split(".")[0] == "tasks" for name in imports(path))


def test_no_modules_import_each_other():
    modules = {name_of(path) for path in SOURCES}
    graph = {name_of(path): {name for name in imports(path) if name in modules} - {name_of(path)} for path in SOURCES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*trail, module))
            done.add(module)

    for module in sorted(modules):
        visit(module, ())


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 350
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name


# Calls that draw from a global generator, or set one. With an argument ``generator`` a call of torch's is pure.
GLOBAL = re.compile(
    r"random\.\w+|(np|numpy)\.random\.(?!Generator$|Philox$|SeedSequence$)\w+|torch\.random\.\w+"
    r"|torch\.(cuda\.)?(manual_seed|seed|initial_seed|set_rng_state|rand\w*|normal|bernoulli|multinomial)"
    r"|torch\.nn\.init\.\w*(normal|uniform|orthogonal|sparse)_"
    r"|.+\.(uniform_|normal_|bernoulli_|random_|exponential_|log_normal_|cauchy_|geometric_)"
)
MAY_TOUCH_GENERATORS = {
    "tasks.checker": "sees to it that families leave them alone",
    "tasks.environments.settable": "puts an environment's own states in place while it is called, and the others back",
    "meta.models.module": "sets torch's inside a fork, for constructors of modules that know no other",
}


def global_draws(source: str) -> list[str]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        name
        for call in calls
        if GLOBAL.fullmatch(name := ast.unparse(call.func))
        and "generator" not in {keyword.arg for keyword in call.keywords}
    ]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_global_random_generator_is_used(path):
    assert name_of(path) in MAY_TOUCH_GENERATORS or not global_draws(path.read_text())


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("random.random()", True),
        ("np.random.seed(1)", True),
        ("np.random.default_rng()", True),
        ("torch.manual_seed(0)", True),
        ("torch.randn(3)", True),
        ("torch.rand_like(x)", True),
        ("torch.empty(3).normal_()", True),
        ("torch.nn.init.trunc_normal_(w)", True),
        ("torch.randn(3, generator=g)", False),
        ("torch.Generator().manual_seed(0)", False),
        ("np.random.Generator(np.random.Philox(key=1))", False),
        ("key.rng().random(3)", False),
    ],
)
def test_draws_from_global_generators_are_recognised(source, found):
    assert bool(global_draws(source)) == found


@pytest.mark.parametrize("path", [path for path in SOURCES if name_of(path).split(".")[0] != "metaray"], ids=name_of)
def test_nothing_imports_the_front_door(path):
    assert not any(name.split(".")[0] == "metaray" for name in imports(path))


def test_no_folder_of_tests_is_named_after_a_package():
    assert not {path.name for path in (ROOT / "tests").iterdir()} & set(PACKAGES)
