"""The OpenAPI description of a server: what this model takes and gives."""

from typing import Any

from pydantic import TypeAdapter, create_model
from pydantic.json_schema import JsonSchemaMode

from cluster.registry.adapting import Adaptable
from cluster.registry.fields import ImageFiles
from cluster.serving.archives import SCALARS
from cluster.serving.bodies import CLOSED, Error, Health, Ready, asked_of, lists_of
from cluster.serving.forms import MULTIPART, NPZ
from cluster.serving.images import FORMATS
from cluster.serving.limits import Limits

Json = dict[str, Any]

REFUSALS = {
    400: "The request is not as described, or adaptation diverges; the message says which field, and why.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is of a type that is not taken.",
    500: "A fault of the server, which its log describes.",
    503: "Too much is waiting already; try again after the seconds in Retry-After.",
    504: "The answer took too long; ask for fewer tasks or inner steps.",
}

OBJECT: Json = {"type": "object"}
TEXT: Json = {"text/plain": {"schema": {"type": "string"}}}
VERSION: Json = {
    "X-Model-Version": {"description": "The version that answered.", "schema": {"type": "string"}},
}


def describe(model: Adaptable, name: str, version: int, limits: Limits) -> Json:
    """The description, OpenAPI 3.1.

    Args:
        model: what is served.
        name: of the registered model.
        version: of it.
        limits: what the server accepts.
    """
    error = {"description": "Refused", "content": _json(_ref("Error"))}
    refused = {str(status): error | {"description": reason} for status, reason in REFUSALS.items()}
    question = {
        "summary": "Adapt to the support of each task, and predict for its queries.",
        "operationId": "invocations",
        "requestBody": {"required": True, "content": _questions(model)},
        "responses": {
            "200": {
                "description": "Predictions; in the form that Accept prefers",
                "content": _answers(),
                "headers": VERSION,
            },
            **refused,
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{name}, version {version}", "version": str(version)},
        "paths": {
            "/invocations": {"post": question},
            "/health": _get("health", "Whether the process answers and can adapt.", _json(_ref("Health")), "No"),
            "/ready": _get("ready", "Whether new requests are taken.", _json(_ref("Ready")), "No"),
            "/model": _get("model", "Which model is served, its card, and what it takes.", _json(OBJECT)),
            "/metrics": _get("metrics", "What was counted and timed, as Prometheus reads it.", TEXT),
            "/openapi.json": _get("openapi", "This description.", _json(OBJECT)),
        },
        "components": {"schemas": _schemas(model, limits)},
    }


def _questions(model: Adaptable) -> Json:
    """The forms of a question: JSON, an archive of arrays, and image files where the model takes images."""
    content = _json(_ref("Question"))
    fields = "; ".join(map(str, model.inputs))
    content[NPZ] = {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": f"What numpy.savez writes of arrays {fields}; {' and '.join(SCALARS)} may be beside them",
        }
    }
    if model.images:
        content[MULTIPART] = {"schema": _form(model, model.images)}
    return content


def _form(model: Adaptable, files: ImageFiles) -> Json:
    """Image files by field, those of the first task first; the rest as JSON."""
    height, width, channels = files.shape
    kind = f"{' or '.join(FORMATS)} files, brought to {width} × {height}, {'grey' if channels == 1 else 'RGB'}"
    image = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": kind}
    inputs = {field.name: _ref(f"Inputs/properties/{field.name}") for field in model.inputs}
    return {
        "type": "object",
        "properties": inputs | dict.fromkeys(files.names, image) | {"params": _ref("Question/properties/params")},
        "required": list(inputs),
        "additionalProperties": False,
    }


def _answers() -> Json:
    archive = {"type": "string", "format": "binary", "description": "What numpy.savez writes of an array predictions"}
    return _json(_ref("Answer")) | {NPZ: {"schema": archive}}


def _schemas(model: Adaptable, limits: Limits) -> Json:
    question = asked_of(model.inputs, model.inner_steps, model.inner_lr, limits)
    answer = create_model("Answer", __config__=CLOSED, predictions=lists_of(model.output, limits))
    types: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        (kind.__name__, "validation", TypeAdapter(kind)) for kind in (question, answer, Error, Health, Ready)
    ]
    _, schema = TypeAdapter.json_schemas(types, ref_template=_ref("{model}")["$ref"])
    schemas: Json = schema["$defs"]
    return schemas


def _get(name: str, summary: str, content: Json, no: str = "") -> Json:
    """A page; ``no`` describes the same content with status 503, where there is that."""
    responses = {"200": {"description": "Yes" if no else summary, "content": content}}
    if no:
        responses["503"] = {"description": no, "content": content}
    return {"get": {"summary": summary, "operationId": name, "responses": responses}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}
