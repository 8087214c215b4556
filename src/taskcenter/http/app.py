"""The HTTP app: routes put together, and what holds for every request whatever its route.

A request passes `ApiApp.handle_request`: it gets its id, is timed, and leaves one log line and one metric, also when
the client goes away before the answer. Inside, `before_request` authenticates everything that is not marked public, so
that a route cannot forget to; the error handler turns every exception into a problem (`problems.py`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

import trio
from quart import Response, current_app, g, request
from quart.wrappers import Request
from quart_trio import QuartTrio
from werkzeug.routing import BaseConverter
from werkzeug.wrappers import Response as WerkzeugResponse

from taskcenter import log
from taskcenter.clock import Clock
from taskcenter.config import Network, Settings
from taskcenter.errors import Forbidden, Unauthenticated
from taskcenter.http.audit import audit_blueprint
from taskcenter.http.authentication import authenticate_with, rate_limit
from taskcenter.http.businesses import businesses_blueprint
from taskcenter.http.client_address import caller_of
from taskcenter.http.containment import CLIENT_LEFT
from taskcenter.http.docs_page import docs_blueprint
from taskcenter.http.health import Exposition, health_blueprint, own_exposition, stats_blueprint
from taskcenter.http.keys import keys_blueprint
from taskcenter.http.openapi import operation_of
from taskcenter.http.problems import CONTENT_TYPE, problem_of
from taskcenter.http.requests import PARSERS, begin_record, request_record
from taskcenter.http.tasks import tasks_blueprint
from taskcenter.metrics import Metrics
from taskcenter.service.json_text import dump
from taskcenter.service.principal import Principal
from taskcenter.service.services import Services

PREFIX: Final = "/api/v1"
BODY_TIMEOUT_S: Final = 30
CLIENT_GONE: Final = 499  # in log and metric only: nobody was there to be answered
PARSER_THREADS: Final = 2
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
ACCESS: Final = "taskcenter.access"  # the extension that books what is forbidden
STRICT_TRANSPORT: Final = "max-age=31536000"
_CONVERTER: Final = re.compile(r"<[^:<>]+:")
DENY_ALL: Final = "default-src 'none'; frame-ancestors 'none'"


def route_of(rule: Any) -> str:
    """A route's name for metrics, log and audit: of ours, whatever was sent. `rule`: werkzeug's, None for none."""
    return "unmatched" if rule is None else _CONVERTER.sub("<", rule.rule)


class BusinessIdConverter(BaseConverter):
    """The rest of the path, slashes included: a `business_id` may hold any printable character."""

    regex = ".+"
    part_isolating = False


class TaskIdConverter(BaseConverter):
    """What may be a task's id: not the names of the calls beside it, so that their 405 lists their own methods."""

    regex = r"(?!(?:batch|redeliver)$)[^/]+"


class ApiApp(QuartTrio):
    """Times, names, logs and counts every request."""

    def __init__(
        self,
        metrics: Metrics,
        clock: Clock,
        settle: Callable[[Principal], Awaitable[None]],
        trusted_proxies: Sequence[Network],
    ) -> None:
        """`settle`: returns when what the principal's use left in the audit is durable."""
        super().__init__(__name__, static_folder=None)
        self._settle = settle
        self._trusted_proxies = trusted_proxies
        self._clock = clock
        self._seconds = metrics.http_request
        self._log = log.get("http")

    async def handle_request(self, request: Request) -> Response | WerkzeugResponse:
        peer = (request.scope.get("client") or [None])[0]
        ip = caller_of(peer, request.headers.getlist("X-Forwarded-For"), self._trusted_proxies)
        record = begin_record(request.scope, request.headers.get("X-Request-Id"), ip)
        began = self._clock.now_ms_exact()
        status = CLIENT_GONE
        try:
            response = await super().handle_request(request)
            if record.principal is not None:
                await self._settle(record.principal)
            status = response.status_code
        finally:
            duration_ms = self._clock.now_ms_exact() - began
            route = route_of(request.url_rule)
            method = request.method if request.method in METHODS else "other"
            self._seconds.labels(route, method, str(status)).observe(duration_ms / 1000)
            who = record.principal
            self._log.info(
                "request",
                request_id=record.request_id,
                method=method,
                path=request.path,
                route=route,
                status=status,
                duration_ms=round(duration_ms, 3),
                actor=None if who is None else who.kind.value,
                key_id=None if who is None else who.key_id,
                business=None if who is None or who.business is None else who.business.code,
                task_id=record.task_id,
                code=record.code,
                ip=record.ip,
            )
        response.headers["X-Request-Id"] = record.request_id
        if record.allowance is not None:
            response.headers.extend(record.allowance.headers)
        for name, value in SECURITY_HEADERS.items():
            response.headers[name] = value
        response.headers.setdefault("Content-Security-Policy", DENY_ALL)
        if request.scheme == "https":
            response.headers["Strict-Transport-Security"] = STRICT_TRANSPORT
        return response


def build_app(
    services: Services, settings: Settings, metrics: Metrics, clock: Clock, exposition: Exposition | None = None
) -> QuartTrio:
    """The ASGI app. `exposition`: what `/metrics` shows, when that is more than this process's."""
    app = ApiApp(metrics, clock, services.authenticator.settle, settings.trusted_proxies)
    app.config.update(
        MAX_CONTENT_LENGTH=settings.max_body_bytes,
        BODY_TIMEOUT=BODY_TIMEOUT_S,
        PROVIDE_AUTOMATIC_OPTIONS=False,
        PROPAGATE_EXCEPTIONS=False,
    )
    app.extensions[ACCESS] = services.authenticator
    app.extensions[PARSERS] = trio.CapacityLimiter(PARSER_THREADS)
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False
    app.url_map.redirect_defaults = False
    app.url_map.converters["business_id"] = BusinessIdConverter
    app.url_map.converters["task_id"] = TaskIdConverter
    for_all = not settings.metrics_require_admin
    exposition = exposition or own_exposition(metrics.registry)
    health = health_blueprint(services.health, exposition, metrics_for_all=for_all)
    app.register_blueprint(tasks_blueprint(services.tasks), url_prefix=PREFIX)
    app.register_blueprint(stats_blueprint(services.stats), url_prefix=PREFIX)
    app.register_blueprint(health, url_prefix=PREFIX)
    app.register_blueprint(health, url_prefix="", name="root_health")
    app.register_blueprint(businesses_blueprint(services.businesses, services.access.stats), url_prefix=PREFIX)
    app.register_blueprint(audit_blueprint(services.businesses), url_prefix=PREFIX)
    app.register_blueprint(keys_blueprint(services.rotation), url_prefix=PREFIX)
    app.register_blueprint(docs_blueprint(app))
    app.before_request(_identify(app, authenticate_with(services.authenticator), rate_limit(settings, clock)))
    app.register_error_handler(Exception, _answer_problem)
    return app


def _identify(
    app: QuartTrio, authenticate: Callable[[], Awaitable[Principal]], count: Callable[[Principal], None]
) -> Callable[[], Awaitable[None]]:
    async def identify() -> None:
        """Who asks, and whether it asks too often; nobody has to say for a public route, nor for one that does not
        exist.
        """
        if request.endpoint is None:
            return
        operation = operation_of(app.view_functions.get(request.endpoint))
        if operation is not None and operation.public:
            return
        g.principal = await authenticate()
        request_record().principal = g.principal
        count(g.principal)

    return identify


async def _answer_problem(error: Exception) -> Response:
    """Every exception that ends a request, as a problem."""
    if isinstance(error, CLIENT_LEFT):
        return Response(b"", CLIENT_GONE)
    problem = problem_of(error)
    record = request_record()
    if isinstance(error, Forbidden) and record.principal is not None:
        call = f"{request.method} {route_of(request.url_rule)}"
        await current_app.extensions[ACCESS].forbidden(record.principal, call)
    record.code = error.reason if isinstance(error, Unauthenticated) else problem.code
    if problem.status == 500:
        log.get("http").error("request failed", request_id=record.request_id, exc_info=error)
    content: Any = dump(problem.fields(quote(request.path, safe="/:@!$&'()*+,;=~-._")))
    return Response(content, problem.status, headers=dict(problem.headers), content_type=CONTENT_TYPE)
