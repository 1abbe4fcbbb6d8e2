"""/api/v1: everything the pages do, as JSON."""

from __future__ import annotations

from django.http import Http404
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from apps.api.explorer import Explorer
from apps.api.v1 import account, admin, agents, billing, domains, examples, impersonations, issuers, keys, people, records, revenue, team, usage
from apps.api.v1.base import Key, Member, OperatorKey, OperatorSession
from apps.common.errors import BadRequest, MissingApiKey, NotFound, Unprocessable, VivavoceError


class Api(NinjaAPI):
    def get_openapi_schema(self, **kwargs):
        document = super().get_openapi_schema(**kwargs)
        examples.fill(document)
        return document


api = Api(title="Vivavoce", version="1", description="Workspaces, agents, keys, team, sessions, usage and audit. Errors have one shape; "
               "lists are paged by cursor; a creating POST takes `Idempotency-Key`.", urls_namespace="api-v1", auth=[Key(), Member()], docs=Explorer())  # fmt: skip
api.add_router("", account.router, tags=["workspace"])
api.add_router("", people.router, tags=["people"])
api.add_router("tenant", issuers.router, tags=["workspace"])
api.add_router("agents", agents.router, tags=["agents"])
api.add_router("keys", keys.router, tags=["keys"])
api.add_router("", team.router, tags=["team"])
api.add_router("", records.router, tags=["records"])
api.add_router("usage", usage.router, tags=["usage"])
api.add_router("billing", billing.router, tags=["billing"])
api.add_router("admin", revenue.router, tags=["operators"], auth=[OperatorKey(), OperatorSession()])
api.add_router("admin", admin.router, tags=["operators"], auth=[OperatorKey(), OperatorSession()])
api.add_router("admin", domains.router, tags=["operators"], auth=[OperatorKey(), OperatorSession()])
api.add_router("admin", impersonations.router, tags=["operators"], auth=[OperatorKey(), OperatorSession()])
api.add_router("admin", issuers.platform, tags=["operators"], auth=[OperatorKey(), OperatorSession()])


def _say(request, error: VivavoceError):
    answer = api.create_response(request, error.to_json(), status=error.status)
    if error.retry_after_s is not None:
        answer["Retry-After"] = str(error.retry_after_s)
    return answer


@api.exception_handler(VivavoceError)
def on_error(request, error):
    return _say(request, error)


@api.exception_handler(AuthenticationError)
def on_nobody(request, error):
    return _say(request, MissingApiKey("Send `Authorization: Bearer …` with an API key, or sign in."))


@api.exception_handler(ValidationError)
def on_invalid(request, error):
    fields: dict[str, list[str]] = {}
    for problem in error.errors:
        place = [str(p) for p in problem["loc"] if p not in ("body", "query", "path", "data", "payload", "header")]
        fields.setdefault(".".join(place) or "body", []).append(problem["msg"])
    return _say(request, Unprocessable("The request does not do: " + ", ".join(fields), fields=fields))


@api.exception_handler(HttpError)
def on_http(request, error):
    if error.status_code == 403:  # CSRF
        return api.create_response(request, {"error": {"message": str(error), "type": "invalid_request_error", "code": "forbidden", "param": None}}, status=403)
    return _say(request, BadRequest(str(error)))


@api.exception_handler(Http404)
def on_missing(request, error):
    return _say(request, NotFound("There is no such thing here."))
