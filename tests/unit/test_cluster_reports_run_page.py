"""The page holds the run's numbers, loads nothing, and shows foreign text as text."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.config.schema import parse
from cluster.errors import MetarayError
from cluster.reports.run_page import SHOWN_EVENTS, draw_figures, read_metrics, write_report
from cluster.runs.events import Event, EventLog
from cluster.setups.build import build
from helpers.pages import Page
from meta.objectives import DIVERGED, MSE, is_diverged

CONFIG = {
    "task": {"family": "sinusoid", "shot": 7},
    "model": {"name": "mlp", "hidden": [6]},
    "outer": {"steps": 20},
    "meta_batch": 2,
}
INFO = {
    "name": "sinusoid-one",
    "algorithm": "maml",
    "created": "2025-01-01T12:00:00+00:00",
    "mlflow_run_id": "0123abcd",
    "mlflow_uri": "sqlite:///mlflow.db",
    "versions": {"torch": "2.13.0", "ray": "2.60.0"},
    "git_commit": "f00f00",
    "hardware": "Some Processor, 2 cores",
    "engine": "trace",
}


def score(mean: float | None, ci95: float | None, median: float | None, diverged: int = 0) -> dict[str, Any]:
    return {"mean": mean, "ci95": ci95, "median": median, "diverged": diverged}


EVALUATION = {
    "metric": "mse",
    "split": "test",
    "tasks": 600,
    "query_per_class": 13,
    "batch_norm": None,
    "inner_lr": 0.01,
    "shot": 7,
    "steps": {"0": score(2.98754, 0.23979, 1.79393), "10": score(0.18604, 0.02271, 0.08192, 4)},
    "baselines": {"pretrain": {"0": score(2.97025, 0.23666, 1.7652), "10": score(None, None, 0.7978, 9)}},
}
METRICS = [
    {"step": 10, "time": 1.0, "values": {"train/loss": 4.25, "train/mse": 4.5}},
    {"step": 10, "time": 1.5, "values": {"val/mse_10": 3.75, "val/mse_2": 3.5}},
    {"step": 20, "time": 2.0, "values": {"train/loss": 0.5, "train/mse": None}},
]


def write_run(path: Path, *, info: Any = INFO, evaluation: Any = EVALUATION, metrics: Any = METRICS) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(parse(CONFIG).to_yaml())
    (path / "run.json").write_text(json.dumps(info))
    if evaluation is not None:
        (path / "evaluation.json").write_text(json.dumps(evaluation))
    if metrics is not None:
        (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def written(run: Path, figures: list[Path] | None = None) -> Page:
    return Page(write_report(run, figures or []).read_text(encoding="utf-8"))


# --- the page ---


def test_what_was_lost_is_on_the_page_with_its_seconds(run: Path) -> None:
    assert "Workers and nodes lost" not in written(run).text
    events = [Event(kind="worker lost", text=f"worker <{n}> was lost", seconds=2.0) for n in range(SHOWN_EVENTS)]
    events.append(Event(kind="node lost", text="node two was lost", seconds=4.5, node="two (a1b2c3d4)", time=1.7e9))
    EventLog(run / "events.jsonl").write(events)
    page = written(run)
    totals, shown = page.tables[-2:]
    assert ["worker lost", "100", "200.0"] in totals
    last = ["2023-11-14 22:13:20+00:00", "node lost", "", "two (a1b2c3d4)", "4.5", "node two was lost"]
    assert shown[-1] == last
    assert len(shown) == 1 + SHOWN_EVENTS
    assert "worker <99> was lost" in page.text
    assert "without the first 1, which events.jsonl holds" in page.text


def test_the_evaluation_is_one_table_of_learners_by_inner_steps(run: Path) -> None:
    page = written(run)
    assert page.tables[0] == [
        ["inner steps", "0", "10"],
        ["maml"],
        ["mean", "2.99 ± 0.24", "0.186 ± 0.023"],
        ["median", "1.794", "0.08192"],
        ["diverged", "0", "4"],
        ["pretrain"],
        ["mean", "2.97 ± 0.24", "not finite"],
        ["median", "1.765", "0.7978"],
        ["diverged", "0", "9"],
    ]
    scopes = {attributes.get("scope") for attributes in page.attributes("th")}
    assert scopes == {"col", "row", "rowgroup"}


def test_each_kind_of_task_has_its_rows(tmp_path: Path) -> None:
    steps = {"1": score(1.0, None, 1.0)}
    kinds = {"backward": {"1": score(2.0, 0.5, 2.0)}, "forward": {"1": score(0.0, 0.25, 0.0)}}
    evaluation = EVALUATION | {"steps": steps, "baselines": {}, "kinds": kinds}
    page = written(write_run(tmp_path / "run", evaluation=evaluation | {"kind_tasks": {"backward": 4, "forward": 8}}))
    assert [row for row in page.tables[0] if row[0] in ("mean", "maml") or row[0].startswith("maml,")] == [
        ["maml"],
        ["mean", "1.000"],  # one task: no interval
        ["maml, backward"],
        ["mean", "2.00 ± 0.50"],
        ["maml, forward"],
        ["mean", "0.00 ± 0.25"],
    ]
    assert "mean over kinds of task (4 backward, 8 forward)" in page.text


def test_the_page_and_the_count_of_diverged_tasks_have_one_factor(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"above {DIVERGED:g} times that before adaptation" in written(run).text
    assert is_diverged(torch.tensor([[1.0, 1.01 * DIVERGED], [1.0, 0.99 * DIVERGED]]), MSE)[:, 1].tolist() == [
        True,
        False,
    ]
    monkeypatch.setattr("cluster.reports.run_page.DIVERGED", 250.0)
    assert "above 250 times that before adaptation" in written(run).text


def test_warnings_stand_on_the_page_once(tmp_path: Path) -> None:
    text = "the training does not learn: <b>none</b> of 3 could"
    run = write_run(tmp_path / "run", info=INFO | {"warnings": [text]}, evaluation=EVALUATION | {"warnings": [text]})
    page = written(run)
    assert page.text.count(text) == 1
    assert "Warnings" in page.text
    assert "Warnings" not in written(write_run(tmp_path / "other")).text


def test_numbers_of_inner_steps_are_sorted_as_numbers(tmp_path: Path) -> None:
    steps = {number: score(1.0, 0.1, 1.0) for number in ("10", "9", "0")}
    run = write_run(tmp_path / "run", evaluation=EVALUATION | {"steps": steps})
    assert written(run).tables[0][0] == ["inner steps", "0", "9", "10"]


def test_a_step_that_a_baseline_lacks_is_an_empty_cell(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", evaluation=EVALUATION | {"baselines": {"oracle": {"10": score(0.01, 0.001, 0.01)}}}
    )
    assert written(run).tables[0][6] == ["mean", "", "0.0100 ± 0.0010"]


def test_the_lead_states_the_result_beside_the_baselines(run: Path) -> None:
    expected = "maml on sinusoid: mse 0.186 ± 0.023 after 10 inner steps on 600 test tasks (pretrain not finite)."
    assert expected in written(run).text


def test_the_protocol_is_stated(run: Path) -> None:
    text = written(run).text
    for part in (
        "600 tasks of the test split",
        "7 support examples",
        "13 query examples",
        "inner step size 0.01",
        "batch norm: none",
    ):
        assert part in text


def test_accuracies_are_given_in_percent_and_counts_per_class(tmp_path: Path) -> None:
    values = {
        "metric": "accuracy",
        "batch_norm": "transductive",
        "checkpoint_step": 15,
        "steps": {"1": score(0.98712, 0.00411, 1.0)},
        "baselines": {},
    }
    text = written(write_run(tmp_path / "run", evaluation=EVALUATION | values)).text
    assert "accuracy 98.71 ± 0.41 % after 1 inner step on" in text
    assert "100.00 %" in text
    assert "13 query examples per class" in text
    assert "batch norm: transductive" in text
    assert "parameters of outer step 15" in text


IMAGES = EVALUATION | {
    "metric": "accuracy",
    "way": 5,
    "shot": 1,
    "query_per_class": 15,
    "batch_norm": "transductive",
    "data": "0123456789abcdef" * 4,
    "checkpoint_step": 15,
    "best_step": 15,
    "steps": {"0": score(0.2, 0.01, 0.2), "3": score(0.98712, 0.00411, 1.0)},
    "baselines": {},
}


def test_the_protocol_of_an_image_task_is_stated_beside_numbers_and_figure(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluation=IMAGES)
    page = written(run, draw_figures(run, {}).paths)
    stated = [
        "600 tasks of the test split",
        "5-way 1-shot",
        "15 query examples per class",
        "batch norm: transductive",
        "inner step size 0.01",
        "trained with 1 inner step",
        "parameters of outer step 15, the best on validation tasks",
        "data 0123456789ab",
    ]
    assert " ".join(stated) in page.text  # the list above the table
    assert f"95 % interval as a band ({', '.join(stated)})." in page.text  # the figure's caption
    assert f"Data{IMAGES['data']}" in page.text  # whole, among the facts of its origin


ROLLOUTS = EVALUATION | {
    "metric": "return",
    "way": None,
    "shot": 20,
    "query_per_class": 20,
    "horizon": 200,
    "inner_lr": 0.1,
    "later_lr": 0.5,
    "steps": {"0": score(-60.25, 5.5, -58.0), "3": score(-20.5, 1.25, -19.0)},
    "baselines": {"oracle": {"0": score(-10.0, 1.0, -9.5), "3": score(-10.0, 1.0, -9.5)}},
}


def test_the_protocol_of_tasks_that_are_acted_in_speaks_of_trajectories(tmp_path: Path) -> None:
    metrics = [{"step": 5, "values": {"train/loss": 0.0, "train/return": -30.0, "train/return_before": -60.0}}]
    run = write_run(tmp_path / "run", evaluation=ROLLOUTS, metrics=metrics)
    drawn = draw_figures(run, {})
    page = written(run, drawn.paths)
    stated = [
        "600 tasks of the test split",
        "20 trajectories of at most 200 steps per inner step",
        "inner step size 0.1, 0.05 from the second step on",
        "trained with 1 inner step",
    ]
    assert " ".join([*stated, "return by number"]) in page.text
    assert (
        "maml on sinusoid: return -20.5 ± 1.2 after 3 inner steps on 600 test tasks (oracle -10.0 ± 1.0)." in page.text
    )
    assert [path.stem for path in drawn.paths] == ["learning_curves", "adaptation"]
    assert "Mean return in training, of those that adapt before and after it, and validation scores" in page.text
    assert "loss" not in page.text.split("Learning curves in numbers")[0]
    for absent in ("batch norm", "support", "query"):
        assert absent not in page.text.split("Configuration")[0]


def test_one_step_size_and_one_trajectory_are_stated_as_such(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluation=ROLLOUTS | {"shot": 1, "horizon": 1, "later_lr": 1.0})
    assert "1 trajectory of at most 1 step per inner step inner step size 0.1 trained with" in written(run).text


@pytest.mark.parametrize("key", ["way", "data", "best_step", "checkpoint_step", "batch_norm", "query_per_class"])
@pytest.mark.parametrize("absent", [True, False])
def test_what_an_older_evaluation_lacks_is_left_out(tmp_path: Path, key: str, absent: bool) -> None:
    evaluation = IMAGES | {key: None}
    if absent:
        del evaluation[key]
    run = write_run(tmp_path / "run", evaluation=evaluation)
    text = written(run, draw_figures(run, {}).paths).text
    gone = {
        "way": "5-way",
        "data": "data 0123",
        "best_step": "best on validation",
        "checkpoint_step": "outer step 15",
        "batch_norm": "transductive",
        "query_per_class": "query examples",
    }
    assert gone[key] not in text
    assert "None" not in text.split("Configuration")[0]


@pytest.mark.parametrize("algorithm", ["pretrain", "oracle"])
def test_training_without_an_inner_loop_is_not_said_to_have_one(tmp_path: Path, algorithm: str) -> None:
    text = written(write_run(tmp_path / "run", info=INFO | {"algorithm": algorithm}, evaluation=IMAGES)).text
    assert "trained with" not in text


def test_an_interval_is_given_with_two_significant_digits(tmp_path: Path) -> None:
    steps = {
        "0": score(315.74, 13.82, 315.0),
        "1": score(2.5e9, 1.5e9, 3.0),
        "2": score(0.25, 0.0, 0.25),
        "3": score(1e-9, 2e-10, 1e-9),
    }
    run = write_run(tmp_path / "run", evaluation=EVALUATION | {"steps": steps})
    assert written(run).tables[0][2] == [
        "mean",
        "316 ± 14",
        "2.5e+09 ± 1.5e+09",
        "0.250 ± 0.000",
        "1e-09 ± 2e-10",
    ]


def test_learning_curves_are_given_in_numbers(run: Path) -> None:
    write_run(run / "baselines" / "pretrain", metrics=[{"step": 5, "time": 0.0, "values": {"train/loss": 7.5}}])
    assert written(run).tables[1] == [
        ["metric", "records", "first", "last", "lowest", "highest"],
        ["maml"],
        ["train/loss", "2", "4.250 (step 10)", "0.5000 (step 20)", "0.5000 (step 20)", "4.250 (step 10)"],
        ["train/mse", "2", "4.500 (step 10)", "not finite (step 20)", "4.500 (step 10)", "4.500 (step 10)"],
        ["val/mse_2", "1", *["3.500 (step 10)"] * 4],
        ["val/mse_10", "1", *["3.750 (step 10)"] * 4],
        ["pretrain"],
        ["train/loss", "1", *["7.500 (step 5)"] * 4],
    ]


def test_origin_and_configuration_are_given(run: Path) -> None:
    text = written(run).text
    for fact in (
        "sinusoid-one",
        "Some Processor, 2 cores",
        "f00f00",
        "0123abcd",
        "sqlite:///mlflow.db",
        "torch 2.13.0, ray 2.60.0",
        "2025-01-01T12:00:00+00:00",
        "trace",
    ):
        assert fact in text
    assert " ".join((run / "config.yaml").read_text().split()) in text


def test_what_is_not_known_is_said_so(tmp_path: Path) -> None:
    page = written(write_run(tmp_path / "run", info={"name": "n", "algorithm": "maml"}, evaluation=None, metrics=None))
    assert "maml on sinusoid, not evaluated yet." in page.text
    assert page.text.count("not recorded") == 7
    assert page.tables == []


def test_figures_are_embedded_whole_with_what_they_show_in_words(run: Path) -> None:
    figures = draw_figures(run, {}).paths
    (run / "figures" / "step_sizes.png").write_bytes(figures[0].read_bytes())
    figures.append(run / "figures" / "step_sizes.png")
    page = written(run, figures)
    images = page.attributes("img")
    embedded = [base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,")) for image in images]
    assert embedded == [path.read_bytes() for path in figures]
    assert all(image["alt"] for image in images)
    assert images[1]["width"] == "990"
    assert "Learning curves" in page.text
    assert "Step sizes" in page.text


def test_notes_stand_with_the_figures_as_text(run: Path) -> None:
    attack = "There is no film strip (<script>alert(1)</script>)."
    page = Page(write_report(run, [], [attack]).read_text(encoding="utf-8"))
    assert attack in page.text
    assert page.attributes("script") == []
    assert "Figures" in page.text


@pytest.mark.parametrize(
    ("stem", "words"),
    [
        ("paths", "thick the mean over a task's trajectories"),
        ("positions", "How far the body has come forward"),
        ("film", "the trajectory of median return"),
    ],
)
def test_figures_of_policies_are_explained(run: Path, stem: str, words: str) -> None:
    figure = run / f"{stem}.png"
    figure.write_bytes(draw_figures(run, {}).paths[0].read_bytes())
    page = written(run, [figure])
    assert words in page.text
    assert not (page.attributes("img")[0]["alt"] or "").startswith("Figure:")


def test_the_page_loads_nothing(run: Path) -> None:
    html = write_report(run, draw_figures(run, {}).paths).read_text(encoding="utf-8")
    page = Page(html)
    loads = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "data", "action", "poster", "background"}
    ]
    assert len(loads) == 3
    assert all((value or "").startswith("data:") for value in loads)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    assert "url(" not in html
    assert "@import" not in html
    (policy,) = [a["content"] for a in page.attributes("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@pytest.mark.parametrize("place", ["config", "name", "hardware", "metric", "baseline"])
def test_foreign_text_is_shown_as_text(tmp_path: Path, place: str) -> None:
    attack = "</code></pre><script>alert(1)</script><img src=x onerror=alert(1)>"
    info, evaluation, metrics = dict(INFO), dict(EVALUATION), list(METRICS)
    if place in {"name", "hardware"}:
        info[place] = attack
    elif place == "metric":
        metrics.append({"step": 30, "time": 3.0, "values": {attack: 1.0}})
    elif place == "baseline":
        evaluation["baselines"] = {attack: {"10": score(1.0, 0.1, 1.0)}}
    run = write_run(tmp_path / "run", info=info, evaluation=evaluation, metrics=metrics)
    if place == "config":
        with (run / "config.yaml").open("a") as stream:
            stream.write(f"# {attack}\n")
    page = written(run)
    assert attack in page.text
    assert page.attributes("script") == page.attributes("img") == []


def test_passwords_in_addresses_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", info=INFO | {"mlflow_uri": "postgresql://me:s3cret@db.example/mlflow"})
    with (run / "config.yaml").open("a") as stream:
        stream.write("# tracking: {uri: 'https://me:s3cr@t@mlflow.example'}\n")
    page = written(run)
    assert "postgresql://***@db.example/mlflow" in page.text
    assert "https://***@mlflow.example" in page.text
    assert "s3cr" not in (run / "report.html").read_text()


def test_an_algorithm_is_told_from_a_baseline_of_the_same_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", info=INFO | {"algorithm": "pretrain"})
    write_run(run / "baselines" / "pretrain")
    page = written(run)
    assert [row[0] for row in page.tables[0] if len(row) == 1] == ["pretrain (this run)", "pretrain"]
    assert [row[0] for row in page.tables[1] if len(row) == 1] == ["pretrain (this run)", "pretrain"]


def test_a_page_is_a_function_of_the_run(run: Path) -> None:
    first = write_report(run, []).read_bytes()
    assert write_report(run, []).read_bytes() == first
    assert not list(run.glob("*.partial"))


# --- what is wrong with a folder ---


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    for write in (lambda: write_report(tmp_path, []), lambda: draw_figures(tmp_path, {})):
        with pytest.raises(
            MetarayError, match=r"expected a run's description in '.*run\.json'.*give the folder of a run"
        ):
            write()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", "{", r"run\.json: expected JSON, received"),
        ("run.json", '{"name": "n"}', r"run\.json: expected name, algorithm, received no algorithm"),
        ("evaluation.json", "[]", r"evaluation\.json: expected metric, .* received no metric"),
        ("config.yaml", "task: [", r"config\.yaml: expected YAML with task\.family"),
        ("config.yaml", "outer: {}", r"config\.yaml: expected YAML with task\.family"),
    ],
)
def test_a_damaged_file_is_named(run: Path, name: str, content: str, message: str) -> None:
    (run / name).write_text(content)
    with pytest.raises(MetarayError, match=message):
        write_report(run, [])
    assert not (run / "report.html").exists()


def test_a_figure_that_is_missing_or_no_png_is_an_error(run: Path) -> None:
    with pytest.raises(MetarayError, match=r"expected a figure in '.*none\.png'"):
        write_report(run, [run / "none.png"])
    with pytest.raises(MetarayError, match=r"expected a PNG in '.*config\.yaml'"):
        write_report(run, [run / "config.yaml"])


# --- metrics ---


def test_metrics_are_read_in_order(run: Path) -> None:
    assert read_metrics(run) == METRICS


def test_no_file_is_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("torn", ['{"step": 30, "ti', '{"step": 30, "time": 1, "values": {"é'.encode()[:-1], "{", "3"])
def test_a_last_line_that_was_cut_short_is_passed_over(run: Path, torn: str | bytes) -> None:
    with (run / "metrics.jsonl").open("ab") as stream:
        stream.write(torn if isinstance(torn, bytes) else torn.encode())
    assert read_metrics(run) == METRICS


def test_a_last_line_that_lacks_only_its_end_counts(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert read_metrics(run) == METRICS


@pytest.mark.parametrize(
    "damaged", ['{"step": 3', "", '{"step": "3", "values": {}}', '{"step": 3, "values": {"a": "b"}}']
)
@pytest.mark.parametrize("number", [2, 4])
def test_a_damaged_line_is_named(run: Path, damaged: str, number: int) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("".join(line + "\n" for line in [*lines[: number - 1], damaged, *lines[number - 1 :]]))
    with pytest.raises(MetarayError, match=rf"metrics\.jsonl, line {number}: expected a JSON object"):
        read_metrics(run)
    with pytest.raises(MetarayError, match=f"line {number}"):
        write_report(run, [])


# --- figures ---


def learned() -> dict[str, Any]:
    setup = build(parse(CONFIG))
    return {"maml": (setup, setup.initial_params())}


@pytest.mark.parametrize(
    ("evaluation", "metrics", "with_params", "names"),
    [
        (EVALUATION, METRICS, True, ["learning_curves", "adaptation", "regression"]),
        (EVALUATION, METRICS, False, ["learning_curves", "adaptation"]),
        (None, METRICS[1:2], False, ["learning_curves"]),
        (EVALUATION, None, False, ["adaptation"]),
        (None, [{"step": 1, "time": 0.0, "values": {"train/mse": 1.0}}], False, []),
    ],
)
def test_what_the_data_permit_is_drawn(
    tmp_path: Path, evaluation: Any, metrics: Any, with_params: bool, names: list[str]
) -> None:
    run = write_run(tmp_path / "run", evaluation=evaluation, metrics=metrics)
    paths = draw_figures(run, learned() if with_params else {}).paths
    assert paths == [run / "figures" / f"{name}.png" for name in names]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_families_without_curves_are_left_out_of_the_regression_figure(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    drawn = draw_figures.__globals__["drawing"].regression
    monkeypatch.setattr("cluster.reports.figures.regression", lambda pairs: given.append(list(pairs)) or drawn(pairs))
    monkeypatch.setattr("cluster.reports.figures.can_draw_regression", lambda setup: setup is not None)
    for other in ("episode", "rollouts"):
        monkeypatch.setattr(f"cluster.reports.figures.can_draw_{other}", lambda setup: False)
    assert (run / "figures" / "regression.png") in draw_figures(run, {"other": (None, {}), **learned()}).paths  # type: ignore[dict-item]
    assert given == [["maml"]]


def test_the_first_learner_of_an_image_task_is_shown_after_the_most_steps_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def episode(setup: Any, params: Any, *, steps: int) -> Any:
        given.append((setup, params, steps))
        return draw_figures.__globals__["drawing"].adaptation(IMAGES, "maml")

    class Trained:
        config = parse(CONFIG | {"inner": {"steps": 2}})

    monkeypatch.setattr("cluster.reports.figures.episode", episode)
    monkeypatch.setattr("cluster.reports.figures.can_draw_episode", lambda setup: setup is not None)
    for other in ("regression", "rollouts"):
        monkeypatch.setattr(f"cluster.reports.figures.can_draw_{other}", lambda setup: False)
    learned: Any = {"none": (None, 0), "maml": (Trained, 1), "pretrain": (Trained, 2)}
    run = write_run(tmp_path / "run", evaluation=IMAGES)
    paths = draw_figures(run, learned).paths
    assert paths[-1] == run / "figures" / "episode.png"
    draw_figures(write_run(tmp_path / "other", evaluation=None), learned)
    assert given == [(Trained, 1, 3), (Trained, 1, 2)]
    page = written(run, paths)
    assert "A test task" in page.text
    assert "cross and a dashed frame a wrong one" in page.text
    assert "predicted class" in (page.attributes("img")[-1]["alt"] or "")


def test_policies_are_shown_after_the_most_steps_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def of_policies(policies: Any, steps: int) -> Any:
        given.append((policies, steps))
        return {"paths": draw_figures.__globals__["drawing"].adaptation(ROLLOUTS, "maml")}, ["No film strip."]

    class Trained:
        config = parse(CONFIG | {"inner": {"steps": 2}})

    monkeypatch.setattr("cluster.reports.figures.of_policies", of_policies)
    for other in ("regression", "episode", "rollouts"):
        monkeypatch.setattr(f"cluster.reports.figures.can_draw_{other}", lambda setup, other=other: other == "rollouts")
    policies: Any = {"maml": (Trained, 1)}
    run = write_run(tmp_path / "run", evaluation=ROLLOUTS)
    drawn = draw_figures(run, policies)
    assert drawn.paths[-1] == run / "figures" / "paths.png"
    assert drawn.notes == ["No film strip."]
    draw_figures(write_run(tmp_path / "other", evaluation=None), policies)
    assert given == [(policies, 3), (policies, 2)]


def test_the_best_step_of_run_and_baselines_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", evaluation=IMAGES)
    write_run(run / "baselines" / "pretrain", evaluation=IMAGES | {"best_step": 10})
    write_run(run / "baselines" / "fomaml", evaluation=EVALUATION)
    write_run(run / "baselines" / "oracle", evaluation=None)
    given: list[Any] = []
    drawn = draw_figures.__globals__["drawing"].learning_curves
    monkeypatch.setattr(
        "cluster.reports.figures.learning_curves", lambda series, best: given.append(best) or drawn(series, best)
    )
    draw_figures(run, {})
    assert given == [{"maml": 15, "pretrain": 10}]


def test_learners_come_in_the_order_of_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"10": score(1.0, 0.1, 1.0)}
    run = write_run(tmp_path / "run", evaluation=EVALUATION | {"baselines": {"pretrain": scores, "oracle": scores}})
    for name in ("fomaml", "oracle", "pretrain"):
        write_run(run / "baselines" / name)
    given: list[list[str]] = []
    drawn = draw_figures.__globals__["drawing"].learning_curves
    monkeypatch.setattr(
        "cluster.reports.figures.learning_curves",
        lambda series, best: given.append(list(series)) or drawn(series, best),
    )
    draw_figures(run, {})
    assert given == [["maml", "pretrain", "oracle", "fomaml"]]
