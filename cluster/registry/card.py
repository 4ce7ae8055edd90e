"""The model card: what a registered version is, in Markdown, and its key numbers as tags."""

from collections.abc import Mapping
from typing import Any

from cluster.config import strict_yaml
from cluster.config.credentials import without_credentials
from cluster.config.schema import Config
from cluster.evaluation.protocol import plain_figure, protocol, rows
from cluster.registry.adapting import Adaptable
from cluster.runs.checkpoint import Checkpoint
from cluster.runs.folder import RunFolder

LONGEST = 5000  # letters of a description that MLflow's databases hold
CUT = "\n# … the rest is in config.yaml beside the model\n"


def describe(
    folder: RunFolder,
    state: Checkpoint,
    evaluation: Mapping[str, Any],
    model: Adaptable,
    theta_sha256: str,
    verdict: str | None,
) -> str:
    """The description of a version.

    Args:
        folder: the run.
        state: the checkpoint of θ.
        evaluation: held-out figures of it.
        model: what is served.
        theta_sha256: fingerprint of θ.
        verdict: how it compares with the champion before it, if that was asked.
    """
    config, info = folder.config, folder.info
    data = f"data of fingerprint `{state.data}`" if state.data else "no data"
    lines = [
        f"# {config.task.family}, {config.algorithm.name}",
        "",
        *_table(evaluation),
        "",
        *(f"- {part}" for part in protocol(evaluation, config.inner.steps)),
        *([f"- {verdict}"] if verdict else []),
        *(f"- warning: {warning}" for warning in evaluation.get("warnings", ())),
        "",
        "## Call",
        "",
        *(f"- `{field}`" for field in model.inputs),
        f"- gives `{model.output}`",
        f"- `inner_steps` {model.inner_steps}, `inner_lr` {model.inner_lr:g}, unless `params` says otherwise",
        "",
        "## Lineage",
        "",
        f"- task family `{config.task.family}`, {data}",
        f"- run `{info['name']}` of {info['created']}, outer step {state.step}, seed {config.seed}",
        f"- θ SHA-256 `{theta_sha256}`",
        f"- git commit `{info['git_commit'] or 'none'}`",
        f"- {', '.join(f'{name} {number}' for name, number in info['versions'].items())}",
        f"- {info['hardware']}",
        "",
        "## Configuration",
        "",
        "```yaml",
    ]
    head, tail = "\n".join(lines) + "\n", "```\n"
    text = without_credentials(strict_yaml.write(config.identity))
    head = without_credentials(head)[: LONGEST - len(CUT) - len(tail)]
    room = LONGEST - len(head) - len(tail)
    return head + (text if len(text) <= room else text[: room - len(CUT)] + CUT) + tail


def _table(evaluation: Mapping[str, Any]) -> list[str]:
    """Scores against inner steps, one row per algorithm and kind of task."""
    columns = list(evaluation["steps"])
    return [
        f"| {evaluation['metric']} after inner steps | {' | '.join(columns)} |",
        f"| --- |{' --- |' * len(columns)}",
        *(
            f"| {name} | {' | '.join(plain_figure(row[column], mean='.4g', half='.2g') for column in columns)} |"
            for name, row in rows(evaluation, evaluation["algorithm"])
        ),
    ]


def tags(
    folder: RunFolder, state: Checkpoint, evaluation: Mapping[str, Any], model: Adaptable, theta_sha256: str
) -> dict[str, str]:
    """The key numbers of a version, to search by: those after the inner steps that it takes by default, if known.

    Args:
        folder: the run's folder.
        state: the checkpoint that is registered.
        evaluation: held-out figures of this θ.
        model: as it is served.
        theta_sha256: fingerprint of θ.
    """
    config: Config = folder.config
    info, columns = folder.info, evaluation["steps"]
    steps = str(model.inner_steps) if str(model.inner_steps) in columns else max(columns, key=int)
    values = {
        "family": config.task.family,
        "algorithm": config.algorithm.name,
        "metric": evaluation["metric"],
        "inner_steps": steps,
        "mean": columns[steps]["mean"],
        "ci95": columns[steps]["ci95"],
        "tasks": evaluation["tasks"],
        "data": state.data or None,
        "theta_sha256": theta_sha256,
        "git_commit": info["git_commit"],
        "version": info["versions"]["metaray"],
    }
    return {f"metaray.{key}": str(value) for key, value in values.items() if value is not None}
