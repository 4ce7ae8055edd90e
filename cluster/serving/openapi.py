"""The OpenAPI description of a server: what this model takes and gives."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cluster.registry.adapting import Adaptable
from cluster.registry.fields import MEANING, Field, ImageFiles
from cluster.serving.archives import SCALARS
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
    error = {"description": "Refused", "content": _json({"$ref": "#/components/schemas/Error"})}
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
            "/health": {"get": _plain("health", "Whether the process answers and can adapt.")},
            "/ready": {"get": _plain("ready", "Whether new requests are taken.")},
            "/model": {"get": _plain("model", "Which model is served, its card, and what it takes.", 200)},
            "/metrics": {"get": _plain("metrics", "What was counted and timed, as Prometheus reads it.", 200)},
            "/openapi.json": {"get": _plain("openapi", "This description.", 200)},
        },
        "components": {"schemas": _schemas(model, limits)},
    }


def _questions(model: Adaptable) -> Json:
    """The forms of a question: JSON, an archive of arrays, and image files where the model takes images."""
    content = _json({"$ref": "#/components/schemas/Question"})
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
    parts: Json = {}
    for field in model.inputs:
        image = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": kind}
        parts[field.name] = image if field.name in files.names else {"$ref": _input(field.name)}
    parts["params"] = {"$ref": "#/components/schemas/Question/properties/params"}
    return _object(parts, [field.name for field in model.inputs])


def _input(name: str) -> str:
    return f"#/components/schemas/Question/properties/inputs/properties/{name}"


def _answers() -> Json:
    archive = {"type": "string", "format": "binary", "description": "What numpy.savez writes of an array predictions"}
    content = _json({"$ref": "#/components/schemas/Answer"}) | {NPZ: {"schema": archive}}
    return {"content": content, "headers": VERSION}


def _schemas(model: Adaptable, limits: Limits) -> Json:
    params = {
        "inner_steps": {"type": "integer", "minimum": 0, "maximum": limits.steps, "default": model.inner_steps},
        "inner_lr": {"type": "number", "minimum": 0, "default": model.inner_lr},
    }
    inputs = {field.name: _array(field, limits) for field in model.inputs}
    return {
        "Question": _object(
            {"inputs": _object(inputs, list(inputs)), "params": _object(params, []) | {"type": ["object", "null"]}},
            ["inputs"],
        ),
        "Answer": _object({"predictions": _array(model.output, limits)}, ["predictions"]),
        "Error": _object({"error_code": {"type": "string"}, "message": {"type": "string"}}, ["error_code", "message"]),
    }


def _object(properties: Json, required: Sequence[str]) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _array(field: Field, limits: Limits) -> Json:
    """Lists in lists, down to the numbers."""
    schema: Json = _number(field.dtype)
    for size in reversed(field.shape):
        schema = {"type": "array", "items": schema} | _bounds(size, limits)
    sizes = ", ".join(f"{size} {MEANING[size]}" for size in field.shape if isinstance(size, str))
    return schema | {"description": f"{field}: {sizes}"}


def _bounds(size: int | str, limits: Limits) -> Json:
    if isinstance(size, int):
        return {"minItems": size, "maxItems": size}
    least = {"minItems": 2 if "+" in size else 1}
    return least | {"maxItems": limits.tasks} if size == "T" else least


def _number(dtype: str) -> Json:
    kind = np.dtype(dtype).kind
    if kind == "f":
        return {"type": "number"}
    if kind == "b":
        return {"type": "boolean"}
    return {"type": "integer", "minimum": int(np.iinfo(dtype).min), "maximum": int(np.iinfo(dtype).max)}


def _plain(name: str, summary: str, *statuses: int) -> Json:
    responses = {str(status): {"description": summary, "content": _json({"type": "object"})} for status in statuses}
    if not statuses:
        responses = {
            "200": {"description": "Yes", "content": _json({"type": "object"})},
            "503": {"description": "No", "content": _json({"type": "object"})},
        }
    return {"summary": summary, "operationId": name, "responses": responses}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}
