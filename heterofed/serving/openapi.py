"""Describes the HTTP interface of models, as OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heterofed.serving.arrow_bodies import MEDIA_TYPE as ARROW
from heterofed.serving.bodies import STATUSES

ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "enum": sorted(STATUSES)},
                "message": {"type": "string"},
                "retry_after": {"type": "integer", "description": "seconds"},
            },
        }
    },
}
REQUEST = {
    "type": "object",
    "required": ["ids"],
    "additionalProperties": False,
    "properties": {
        "ids": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        "columns": {
            "type": ["object", "null"],
            "description": "the Host's own columns of these rows, with one value per id",
            "additionalProperties": {
                "type": "array",
                "items": {"type": ["string", "number", "boolean", "null"]},
            },
        },
    },
}
ANSWER = {
    "type": "object",
    "required": ["model", "version", "ids", "predictions", "parties"],
    "properties": {
        "model": {"type": "string"},
        "version": {"type": "string", "description": "all parties have agreed on this version"},
        "ids": {"type": "array", "items": {"type": "string"}},
        "predictions": {
            "type": "object",
            "description": "the values by column, in the order of the ids",
            "additionalProperties": {"type": "array"},
        },
        "parties": {
            "type": "array",
            "description": "the parties that had each row, joined by +",
            "items": {"type": "string"},
        },
    },
}


def description(tasks: Sequence[str]) -> dict[str, Any]:
    """Return the description.

    Args:
        tasks: the ids of the tasks whose models are served.
    """
    errors = {
        str(status): {"description": "an error", "content": _json(ERROR)}
        for status in sorted(set(STATUSES.values()))
    }
    stream = {ARROW: {"schema": {"type": "string", "format": "binary"}}}
    ok = {"200": {"description": "the predictions", "content": _json(ANSWER) | stream}}
    predict = {
        "summary": "Predict one row or several",
        "description": "An Arrow stream has a column `id` of text and perhaps own columns, not"
        " compressed and without dictionaries; its answer has the columns `id`, the predictions and"
        " `parties`, and the metadata `model` and `version`. Errors are JSON.",
        "security": [{"token": []}],
        "requestBody": {"required": True, "content": _json(REQUEST) | stream},
        "responses": ok | errors,
    }
    plain = {"responses": {"200": {"description": "yes"}, "503": {"description": "no"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"heterofed: {', '.join(tasks)}", "version": "1"},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            **{
                f"/v1/models/{each}:predict": {"post": {"operationId": f"predict {each}"} | predict}
                for each in tasks
            },
            "/healthz": {"get": {"summary": "Say whether the process runs", **plain}},
            "/readyz": {"get": {"summary": "Say whether rows can be predicted", **plain}},
            "/metrics": {"get": {"summary": "Metrics for Prometheus", "security": [{"token": []}]}},
        },
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
