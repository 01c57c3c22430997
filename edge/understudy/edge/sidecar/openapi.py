"""The sidecar's HTTP face, described."""

from __future__ import annotations

from typing import Any

from understudy.edge.config import Mode
from understudy.types.answer import Source
from understudy.types.decision import Reason


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _answers(schema: dict[str, Any]) -> dict[str, Any]:
    error = _object({"error": {"type": "string"}}, ["error"])
    return {
        "200": {"description": "Done", "content": {"application/json": {"schema": schema}}},
        "400": {
            "description": "The request is wrong; one sentence says how",
            "content": {"application/json": {"schema": error}},
        },
    }


def _call(summary: str, request: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    return {
        "post": {"summary": summary, "requestBody": _body(request), "responses": _answers(response)}
    }


def _read(summary: str) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": {"description": summary}}}}


_OPTIONS: dict[str, Any] = {
    "deadline_ms": {"type": "number", "exclusiveMinimum": 0},
    "mode": {"type": "string", "enum": [mode.value for mode in Mode]},
    "never_escalate": {"type": "boolean"},
    "subject": {"type": "string"},
    "slice_name": {"type": "string"},
}
_ANSWER = _object(
    {
        "label": {"type": "string"},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "source": {"type": "string", "enum": [source.value for source in Source]},
        "certified": {"type": "boolean"},
        "degraded": {"type": "boolean"},
        "reason": {"type": "string", "enum": [reason.value for reason in Reason]},
        "bundle": {"type": "string"},
        "latency_ms": {"type": "number"},
        "scores": {"type": "object", "additionalProperties": {"type": "number"}},
        "request_id": {"type": "string", "format": "uuid"},
        "truncated": {"type": "boolean"},
    },
    ["label", "confidence", "source", "certified", "degraded", "reason", "bundle", "latency_ms"],
)
_TEXTS = {"type": "array", "items": {"type": "string"}, "maxItems": 1024}

DESCRIPTION: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "understudy sidecar", "version": "1"},
    "paths": {
        "/v1/predict": _call(
            "Answer one text within its budget",
            _object({"text": {"type": "string"}, **_OPTIONS}, ["text"]),
            {"$ref": "#/components/schemas/Answer"},
        ),
        "/v1/predict_many": _call(
            "Answer texts in their order, within one budget",
            _object({"texts": _TEXTS, **_OPTIONS}, ["texts"]),
            _object(
                {"answers": {"type": "array", "items": {"$ref": "#/components/schemas/Answer"}}},
                ["answers"],
            ),
        ),
        "/v1/forget": _call(
            "Delete what has not left yet about a subject",
            _object({"subject": {"type": "string"}}, ["subject"]),
            _object({"forgotten": {"type": "integer"}}, ["forgotten"]),
        ),
        "/v1/status": _read("How the client is"),
        "/healthz": _read("The process lives"),
        "/readyz": _read("A student is loaded"),
        "/metrics": _read("Prometheus text"),
    },
    "components": {"schemas": {"Answer": _ANSWER}},
}
