"""The forms of requests and answers: JSON, numpy's archive of arrays, and image files as parts of a form."""

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.registry.adapting import Adaptable
from cluster.serving.limits import Refused

JSON = "application/json"
NPZ = "application/x-npz"
MULTIPART = "multipart/form-data"
NAMES = {JSON: "json", NPZ: "npz", MULTIPART: "images"}  # in metrics


def media_type(header: str) -> str:
    """The media type in a Content-Type header, in lower case and without its parameters."""
    return header.partition(";")[0].strip().lower()


def accepted(model: Adaptable) -> tuple[str, ...]:
    """Media types of requests that a model takes: image files only where its inputs are images."""
    return (JSON, NPZ, MULTIPART) if model.images else (JSON, NPZ)


def require_form(header: str, model: Adaptable) -> str:
    """The media type of a request, checked against the model.

    Args:
        header: value of ``Content-Type``.
        model: the model that is served.

    Raises:
        Refused: with status 415, if the model takes no such requests.
    """
    kind = media_type(header)
    if kind not in accepted(model):
        why = "; this model's inputs are no images" if kind == MULTIPART else ""
        raise Refused(415, f"Content-Type: expected {', '.join(accepted(model))}, received {json.dumps(kind)}{why}")
    return kind


def written(predictions: NDArray[Any], accept: str) -> tuple[bytes, str]:
    """Body and media type of an answer: JSON, unless an Accept header prefers numpy's archive.

    Args:
        predictions: [T, Q, …].
        accept: the header; empty if there is none. Another type than these two is answered in JSON.
    """
    if prefers_npz(accept):
        stream = io.BytesIO()
        np.savez(stream, predictions=predictions)
        return stream.getvalue(), NPZ
    return json.dumps({"predictions": predictions.tolist()}, allow_nan=False).encode(), JSON


def prefers_npz(accept: str) -> bool:
    """Whether an Accept header names numpy's archive, and JSON not before it.

    >>> prefers_npz("application/x-npz"), prefers_npz("application/json, application/x-npz;q=0.5"), prefers_npz("*/*")
    (True, False, False)
    """
    quality = {}
    for part in accept.lower().split(","):
        kind, *parameters = (text.strip() for text in part.split(";"))
        quality[kind] = next((_quality(one[2:]) for one in parameters if one.startswith("q=")), 1.0)
    return quality.get(NPZ, 0.0) > 0 and quality[NPZ] >= quality.get(JSON, 0.0)


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
