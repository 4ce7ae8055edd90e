"""Parts that all pages use: templates, figures inside them, and the format of numbers."""

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cluster.errors import MetarayError

PNG = b"\x89PNG\r\n\x1a\n"
NOT_FINITE = "not finite"


def template(name: str) -> Any:
    """The template of a page: what is put in is shown as text, and what it lacks is an error."""
    strict: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined}
    environment = Environment(loader=PackageLoader("cluster"), trim_blocks=True, lstrip_blocks=True, **strict)
    return environment.get_template(f"{name}.html.j2")


def embedded(path: Path) -> dict[str, str]:
    """A figure as the templates want it: the stem of its name, its bytes as an address, its size in pixels.

    Raises:
        MetarayError: if there is no PNG at ``path``.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MetarayError(f"expected a figure in '{path}', received: {error}; draw it first") from error
    if not data.startswith(PNG):
        raise MetarayError(f"expected a PNG in '{path}', received {data[:8]!r}; draw the figure again")
    return {
        "stem": path.stem,
        "source": f"data:image/png;base64,{base64.b64encode(data).decode()}",
        "width": str(int.from_bytes(data[16:20])),
        "height": str(int.from_bytes(data[20:24])),
    }


def interval(score: Mapping[str, Any], metric: str) -> str:
    """Mean ± half-width, with two significant digits of the latter.

    Args:
        score: ``mean`` and ``ci95``.
        metric: name of the score; an accuracy is written in percent.
    """
    mean, half = score["mean"], score["ci95"]
    if mean is None or half is None:
        return rounded(mean, metric)
    if metric == "accuracy":
        return f"{100 * mean:.2f} ± {100 * half:.2f} %"
    if abs(mean) >= 1e6 or 0 < half < 1e-5:
        return f"{mean:.3g} ± {half:.2g}"
    digits = max(0, 1 - math.floor(math.log10(half))) if half > 0 else 3
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def rounded(value: float | None, metric: str = "") -> str:
    """A score in four digits, an accuracy in percent.

    Args:
        value: the score, None where it is not finite.
        metric: name of the score.
    """
    if value is None or not math.isfinite(value):
        return NOT_FINITE
    return f"{100 * value:.2f} %" if metric == "accuracy" else f"{value:#.4g}".rstrip(".")
