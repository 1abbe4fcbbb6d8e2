"""The page at /api/v1/docs: every operation read off the OpenAPI document, on our own page, with nothing fetched from elsewhere.

It is a reference without JavaScript; with it each operation can be tried with the reader's session or a key.
"""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from ninja import NinjaAPI
from ninja.openapi.docs import DocsBase

DEEP = 6  # schemas that name each other are followed so far


class Explorer(DocsBase):
    def render_page(self, request: HttpRequest, api: NinjaAPI, **kwargs: Any) -> HttpResponse:
        document = api.get_openapi_schema(path_params=kwargs)
        base = request.build_absolute_uri("/").rstrip("/")
        return render(request, "portal/explorer.html", {
            "document": self.get_openapi_url(api, kwargs), "info": document["info"], "groups": groups(document, base), "base": base,
        })  # fmt: skip


def groups(document: dict[str, Any], base: str) -> list[tuple[str, list[dict]]]:
    """[(tag, its operations in the order of the document)]"""
    found: dict[str, list[dict]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            found.setdefault((operation.get("tags") or ["other"])[0], []).append(described(document, path, method, operation, base))
    return list(found.items())


def described(document: dict, path: str, method: str, operation: dict, base: str) -> dict[str, Any]:
    """An operation as the page shows it."""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    answers = [answer(document, status, response) for status, response in operation["responses"].items()]
    example = json.dumps(example_of(document, body), indent=2) if body else ""
    curl = [f"curl -X {method.upper()} '{base}{path}'", '-H "Authorization: Bearer $VIVAVOCE_KEY"']
    if body:
        curl += ['-H "Content-Type: application/json"', f"-d '{json.dumps(example_of(document, body))}'"]
    return {
        "id": operation["operationId"], "path": path, "method": method, "summary": operation.get("summary", ""),
        "description": operation.get("description", ""), "parameters": [parameter(document, p) for p in operation.get("parameters", [])],
        "fields": fields(document, body) if body else [], "body": example,
        "answers": [a for a in answers if a["good"]], "errors": sorted(a["status"] for a in answers if not a["good"]), "curl": " \\\n  ".join(curl),
        "open": not operation.get("security"),
    }  # fmt: skip


def answer(document: dict, status: Any, response: dict) -> dict[str, Any]:
    kind, content = next(iter(response.get("content", {}).items()), ("", {}))
    example = json.dumps(content["example"], indent=2, ensure_ascii=False) if kind == "application/json" else content.get("example", "")
    return {"status": str(status), "good": str(status).startswith("2"), "example": example}


def parameter(document: dict, value: dict) -> dict[str, Any]:
    schema = value.get("schema", {})
    default = schema.get("default", schema.get("examples", [""])[0])
    return {"name": value["name"], "where": value["in"], "required": value.get("required", False), "type": type_of(document, schema),
            "about": value.get("description") or schema.get("description", ""), "default": "" if default is None else default}  # fmt: skip


def fields(document: dict, schema: dict) -> list[dict[str, Any]]:
    schema = resolved(document, schema)
    required = schema.get("required", [])
    return [{"name": name, "type": type_of(document, value), "required": name in required, "about": value.get("description", "")}
            for name, value in schema.get("properties", {}).items()]  # fmt: skip


def resolved(document: dict, schema: dict) -> dict:
    """What a $ref names, and of "this or null" the this."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    choices = [c for c in schema.get("anyOf", []) if c.get("type") != "null"]
    return resolved(document, choices[0]) if choices else schema


def type_of(document: dict, schema: dict) -> str:
    schema = resolved(document, schema)
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kind = schema.get("format") or schema.get("type", "any")
    return f"list of {type_of(document, schema['items'])}" if kind == "array" and "items" in schema else str(kind)


SAMPLES = {"string": "string", "integer": 0, "number": 0.0, "boolean": True, "null": None}


def example_of(document: dict, schema: dict, depth: int = 0) -> Any:
    """A value of the schema: its example, its default, or one made of its parts."""
    schema = resolved(document, schema)
    if schema.get("examples"):
        return schema["examples"][0]
    if schema.get("default") is not None:
        return schema["default"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "array":
        return [example_of(document, schema.get("items", {}), depth + 1)] if depth < DEEP else []
    if kind == "object" or "properties" in schema:
        return {n: example_of(document, v, depth + 1) for n, v in schema.get("properties", {}).items()} if depth < DEEP else {}
    if schema.get("format") == "date-time":
        return "2026-11-25T12:00:00Z"
    return SAMPLES.get(kind, None)
