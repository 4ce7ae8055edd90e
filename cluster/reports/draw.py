"""Drawing a run's figures and its page from its folder."""

from collections.abc import Sequence
from pathlib import Path

from cluster.config.schema import overridden
from cluster.reports.run_page import draw_figures, write_report
from cluster.runs import checkpoint as checkpoints
from cluster.runs.folder import RunFolder
from cluster.setups.build import Setup, build
from meta.engine.arithmetic import fix_arithmetic
from meta.params import Params


def draw(folder: RunFolder, overrides: Sequence[str] = ()) -> list[Path]:
    """Draw a run's figures and its page, with what the configuration is to say otherwise, such as ``task.root=…``.

    Args:
        folder: the run's folder.
        overrides: words ``section.key=value`` that change the configuration, such as ``task.root=…``.
    """
    fix_arithmetic(threads=1)
    trained: dict[str, tuple[Setup, Params]] = {}
    for label, one in {folder.config.algorithm.name: folder, **folder.baselines}.items():
        config = overridden(one.config, overrides)
        if config.algorithm.name != "oracle" and one.checkpoints.names():
            _, state = checkpoints.chosen(one.checkpoints)
            setup = build(config)
            checkpoints.require_data(state, setup.data)
            trained[label] = (setup, state.params)
    drawn = draw_figures(folder.path, trained)
    write_report(folder.path, drawn.paths, drawn.notes)
    return drawn.paths
