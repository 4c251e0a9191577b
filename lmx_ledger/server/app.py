"""The Quart application: one door policy in front of every route, request ids, typed errors behind all of them."""

import msgspec
from quart import Quart, Response, g, has_websocket_context, request

from lmx_ledger import __version__
from lmx_ledger.core.config import Config
from lmx_ledger.core.errors import NotFound
from lmx_ledger.core.ids import new_request_id
from lmx_ledger.server import digest, drills, incidents, openai, operator, replay, residency, sessions, why
from lmx_ledger.server.access import Access, Caller, Door
from lmx_ledger.server.context import Context
from lmx_ledger.server.errors import record_rejection, response_of, translate
from lmx_ledger.server.reading import too_large

_JSON = "application/json"
_CORS_HEADERS = "authorization, content-type, x-api-key, x-session-id, x-lmx-session, x-request-id"
_OPEN = frozenset({"/healthz", "/readyz", "/metrics"})


def create_app(context: Context) -> Quart:
    """All routes of this daemon."""
    app = Quart("lmx_ledger", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False

    def bound_bodies(config: Config) -> None:
        app.config["MAX_CONTENT_LENGTH"] = config.server.max_body
        app.config["BODY_TIMEOUT"] = config.server.body_timeout

    context.settings.follow(bound_bodies)

    def access() -> Access:
        return Access(context.config.server)

    @app.before_request
    async def come_in() -> Response | None:
        g.request_id = new_request_id()
        caller = Caller(request.method, {name.lower(): value for name, value in request.headers.items()})
        preflight = request.method == "OPTIONS" and "access-control-request-method" in caller.headers
        access().check(caller, Door.OPEN if preflight else _door(request.path))
        if preflight:
            return Response("", 204, headers={"Access-Control-Allow-Headers": _CORS_HEADERS, "Allow": "GET, POST"})
        length = request.content_length
        if length is not None and length > context.config.server.max_body:
            raise too_large(context.config.server)
        return None

    @app.after_request
    async def go_out(response: Response) -> Response:
        response.headers["X-Request-ID"] = g.get("request_id") or new_request_id()
        response.headers["X-Content-Type-Options"] = "nosniff"
        origin = request.headers.get("Origin")
        if origin and access().may_read(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "X-Request-ID, X-LMX-Session, Retry-After"
            response.headers.add("Vary", "Origin")
        return response

    @app.errorhandler(Exception)
    async def fail(error: Exception) -> Response:
        if has_websocket_context():
            return response_of(NotFound("there is no WebSocket here"), context.rules_seq)
        typed = translate(error, context)
        if not g.get("request_id"):
            g.request_id = new_request_id()
        record_rejection(typed, context)
        return response_of(typed, context.rules_seq)

    @app.get("/healthz")
    async def healthz() -> Response:
        return _json({"status": "ok", "version": __version__, "boot": context.boot})

    @app.get("/readyz")
    async def readyz() -> Response:
        status, reason = context.serving.models.readiness()
        if context.daemon.state == "starting" and status == "ok":
            # Ready means that every model has been tried, and that `daemon.ready` is in the ledger.
            status, reason = "loading", "not every model is loaded yet"
        elif context.daemon.state == "draining":
            status, reason = "draining", "what is in flight goes on, nothing new is admitted"
        return _json({"status": status, "reason": reason}, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        body, content_type = context.metrics.exposition()
        return Response(body, content_type=content_type)

    app.register_blueprint(openai.blueprint(context))
    app.register_blueprint(operator.blueprint(context))
    app.register_blueprint(residency.blueprint(context))
    app.register_blueprint(sessions.blueprint(context))
    app.register_blueprint(drills.blueprint(context))
    app.register_blueprint(replay.blueprint(context))
    app.register_blueprint(why.blueprint(context))
    app.register_blueprint(incidents.blueprint(context))
    app.register_blueprint(digest.blueprint(context))
    return app


def _door(path: str) -> Door:
    if path in _OPEN:
        return Door.OPEN
    return Door.OPERATOR if path.startswith("/lmx/") else Door.CLIENT


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type=_JSON)
