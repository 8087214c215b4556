"""`/openapi.json`, and `/docs`: the same document as a page to read. No script, no network, no framework.

The page is rendered once from the document, so the two cannot differ. Its only style sheet stands in the page and is
named by its hash in the Content-Security-Policy; nothing else may load or run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from html import escape
from typing import Any, Final

from pydantic import BaseModel
from quart import Blueprint, Quart, Response

from taskcenter.http.docs_style import STYLE
from taskcenter.http.openapi import Reply, build_document, describe
from taskcenter.http.problems import TITLES
from taskcenter.http.requests import json_response
from taskcenter.service.json_text import dump

TAG: Final = "Health"
POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
    f"{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)
_CODE: Final = re.compile(r"`([^`]+)`")
_BOLD: Final = re.compile(r"\*\*([^*]+)\*\*")

Json = Mapping[str, Any]
Row = tuple[str, str, str, str]  # name and type as HTML; words and example as text
_EXAMPLE: Final = ' <span class="example">e.g. <code>{}</code></span>'
_METHODS: Final = ("post", "get", "put", "delete")


def docs_blueprint(app: Quart) -> Blueprint:
    """Both are made at the first request, when every route is there."""
    blueprint = Blueprint("docs", __name__)

    @cache
    def document() -> dict[str, Any]:
        return build_document(app)

    @cache
    def document_text() -> bytes:
        return dump(document())

    @cache
    def page() -> str:
        return render_page(document())

    @blueprint.get("/openapi.json")
    @describe(
        "This document",
        tag=TAG,
        public=True,
        replies={200: Reply("The API's description, OpenAPI 3.1.", OpenApiView)},
    )
    async def openapi() -> Response:
        return json_response(document_text())

    @blueprint.get("/docs")
    @describe(
        "This document, to read",
        tag=TAG,
        public=True,
        replies={200: Reply("A page that needs no network.", media_type="text/html")},
    )
    async def docs() -> Response:
        return Response(page(), headers={"Content-Security-Policy": POLICY}, content_type="text/html; charset=utf-8")

    return blueprint


class OpenApiView(BaseModel):
    """An OpenAPI 3.1 document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]


def render_page(document: Json) -> str:
    """The document as HTML."""
    by_tag: dict[str, list[str]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method in sorted(methods, key=_METHODS.index):
            by_tag[methods[method]["tags"][0]].append(_operation(document, path, method, methods[method]))
    sections = "".join(
        f'<section id="{_slug(tag["name"])}"><h2>{escape(tag["name"])}</h2><p>{_words(tag["description"])}</p>'
        f"{''.join(by_tag[tag['name']])}</section>"
        for tag in document["tags"]
    )
    models = "".join(_model(document, name, model) for name, model in document["components"]["schemas"].items())
    problems = "".join(
        f'<tr id="problem-{code}"><td><code>{code}</code></td><td>{escape(title)}</td></tr>'
        for code, title in TITLES.items()
    )
    info = document["info"]
    intro = "".join(map(_paragraph, info["description"].split("\n\n")))
    callbacks = "".join(
        _operation(document, address, "post", document["webhooks"][name]["post"])
        for name, address in (("callback", "callback_url"), ("finished", "finish_url"))
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(info["title"])} API</title>'
        f"<style>{STYLE}</style></head><body>"
        f'<aside><a class="brand" href="#top">{escape(info["title"])}</a>{_contents(document)}</aside>'
        f'<main id="top"><header><h1>{escape(info["title"])} <small>{escape(info["version"])}</small></h1>'
        f'<p class="lead">{escape(info["summary"])}</p></header><section>{intro}</section>{sections}'
        f'<section id="callbacks"><h2>Callbacks</h2><p>What a receiver gets, and may answer.</p>{callbacks}</section>'
        f'<section id="models"><h2>Models</h2>{models}</section>'
        f'<section id="problems"><h2>Problems</h2><p>The <code>code</code> of an error, to switch on.</p>'
        f"<table>{problems}</table></section></main></body></html>"
    )


def _contents(document: Json) -> str:
    """All operations, beside the page; one that is served at two paths stands there once.

    A link leads into the operation's part, because that makes the browser open it.
    """
    links: dict[str, dict[str, str]] = {tag["name"]: {} for tag in document["tags"]}
    for methods in document["paths"].values():
        for method in sorted(methods, key=_METHODS.index):
            operation = methods[method]
            short = "DEL" if method == "delete" else method.upper()
            summary = operation["summary"]
            link = (
                f'<li><a href="#{operation["operationId"]}"><span class="method {method}">{short}</span>'
                f"<span>{escape(summary)}</span></a></li>"
            )
            links[operation["tags"][0]].setdefault(summary, link)
    parts = [
        f'<h2><a href="#{_slug(name)}">{escape(name)}</a></h2><ul>{"".join(items.values())}</ul>'
        for name, items in links.items()
    ]
    more = (
        ("#callbacks", "Callbacks"),
        ("#models", "Models"),
        ("#problems", "Problems"),
        ("/openapi.json", "OpenAPI document"),
    )
    parts += [f'<h2><a href="{target}">{name}</a></h2>' for target, name in more]
    return f"<nav>{''.join(parts)}</nav>"


def _operation(document: Json, path: str, method: str, operation: Json) -> str:
    parts = [f"<p>{_words(operation['description'])}</p>"]
    if parameters := operation.get("parameters"):
        parts.append(f"<h4>Parameters</h4>{_table(_parameter(parameter) for parameter in parameters)}")
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        parts.append(f"<h4>Body</h4>{_fields(document, _resolve(document, schema))}")
    answers = [_answer(document, status, response) for status, response in sorted(operation["responses"].items())]
    parts.append(f'<h4>Answers</h4><table class="answers">{"".join(answers)}</table>')
    return (
        f'<details class="operation"><summary><span class="method {method}">{method.upper()}</span>'
        f'<code>{escape(path)}</code><span class="what">{escape(operation["summary"])}</span></summary>'
        f'<div id="{operation["operationId"]}">{"".join(parts)}</div></details>'
    )


def _answer(document: Json, status: str, response: Json) -> str:
    whole = document["components"]["responses"][f"Error{status}"] if "$ref" in response else response
    contents = [] if "$ref" in response else list(whole.get("content", {}).values())  # a problem is one everywhere
    model = _type(document, contents[0]["schema"]) if contents else ""
    return f"<tr><td><code>{status}</code></td><td>{_words(whole['description'])}</td><td>{model}</td></tr>"


def _parameter(parameter: Json) -> Row:
    place = "" if parameter["in"] == "query" else f" <small>{parameter['in']}</small>"
    example = parameter["example"]
    shown = ",".join(example) if isinstance(example, list) else str(example)
    name = f"<code>{escape(parameter['name'])}</code>{place}"
    return name, _type({}, parameter["schema"]), parameter["description"], shown


def _model(document: Json, name: str, model: Json) -> str:
    if "properties" not in model:
        return ""
    words = _words(model.get("description", ""))
    return f'<div id="model-{name}"><h3>{name}</h3><p>{words}</p>{_fields(document, model)}</div>'


def _fields(document: Json, model: Json) -> str:
    return _table(_rows(document, model, ""))


def _rows(document: Json, model: Json, within: str) -> Iterator[Row]:
    """A row for each field; an object that has no name of its own is shown field by field."""
    required = set(model.get("required", ())) if "additionalProperties" in model else set()  # of input only
    for name, field in model.get("properties", {}).items():
        mark = ' <small class="must">required</small>' if name in required else ""
        examples = field.get("examples")
        example = json.dumps(examples[0], ensure_ascii=False) if examples and examples[0] not in ([], {}) else ""
        shown = f"<code>{escape(within + name)}</code>{mark}"
        yield shown, _type(document, field), field.get("description", ""), example
        for part in field.get("anyOf", [field]):
            if "properties" in part:
                yield from _rows(document, part, f"{within}{name}.")


def _table(rows: Iterable[Row]) -> str:
    lines = "".join(
        f"<tr><td>{name}</td><td><small>{kind}</small></td><td>{_words(words)}"
        f"{_EXAMPLE.format(escape(example)) if example else ''}</td></tr>"
        for name, kind, words, example in rows
    )
    return f'<table class="fields">{lines}</table>'


def _resolve(document: Json, schema: Json) -> Json:
    if "$ref" in schema:
        found: Json = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def _type(document: Json, schema: Json) -> str:
    """A schema in a few words, as HTML."""
    if "$ref" in schema:
        named = _resolve(document, schema)
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#model-{name}">{name}</a>' if "properties" in named else _type(document, named)
    if "allOf" in schema:
        return _type(document, schema["allOf"][0])
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_type(document, part) for part in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(escape(str(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"[{_type(document, schema.get('items', {}))}]"
    return escape(str(schema.get("format") or schema.get("type", "any JSON")))


def _words(text: str) -> str:
    """Escaped, with `code` and **bold**."""
    text = escape(text.replace("\n", " "), quote=False)
    return _BOLD.sub(r"<strong>\1</strong>", _CODE.sub(r"<code>\1</code>", text))


def _paragraph(text: str) -> str:
    """A part of a longer text; lines that begin with a dash are a list."""
    if not text.startswith("- "):
        return f"<p>{_words(text)}</p>"
    return f"<ul>{''.join(f'<li>{_words(item)}</li>' for item in text[2:].split(chr(10) + '- '))}</ul>"


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")
