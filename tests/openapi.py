"""Random requests by schemathesis over the OpenAPI document of /api/v1: no 5xx, no answer that the document does not describe."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import schemathesis
from django.core.wsgi import get_wsgi_application
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from apps.apikeys.services import SCOPES, api_key_issue
from apps.common.actors import SYSTEM
from apps.teams.models import Membership, Role
from tests.houses import BACKEND, House, fill, operator_secret

CHECKS = [checks.not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
KEYS = {"key with every scope": tuple(SCOPES), "key to read": ("usage:read",), "key to talk": ("realtime:connect",), "nobody": ()}
LOOKING = "operator as an owner"
ROLES = [*Role.values, *KEYS, LOOKING, "operator"]


@dataclass
class Outcome:
    role: str
    operations: int = 0
    requests: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0


def credentials(role: str, house: House) -> dict[str, dict[str, str]]:
    """What a request of that role carries: a session with its CSRF token, or a key."""
    if role in Role.values:  # signed in again, with the role it began with: the operation before may have ended both
        token, member = "t" * 32, house.members[role].membership
        house.members[role].force_login(member.user, backend=BACKEND)
        Membership.objects.filter(pk=member.pk).update(role=role)
        return {"headers": {"X-CSRFToken": token, "X-Vivavoce-Tenant": house.tenant.slug}, "cookies": {"sessionid": house.members[role].cookies["sessionid"].value, "csrftoken": token}}
    if role == LOOKING:
        return {"headers": {"Authorization": f"Bearer {house.looking['owner', True]}"}}
    if role != "operator" and not KEYS[role]:
        return {}
    secret = operator_secret() if role == "operator" else api_key_issue(tenant=house.tenant, name=role, scopes=list(KEYS[role]), actor=SYSTEM)[1]
    return {"headers": {"Authorization": f"Bearer {secret}"}}


def fuzz(role: str, examples: int) -> Outcome:
    """Ask every operation of that role `examples` times, every second time with ids that exist. Raises AssertionError with the first break.

    In-process, without a socket between: ten times as many requests a second.
    """
    django = get_wsgi_application()

    def application(environ, start_response):
        return django({"REMOTE_ADDR": "127.0.0.1", **environ}, start_response)

    document = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", application)
    house, outcome, began = House("fuzz"), Outcome(role), time.monotonic()
    for result in document.get_all_operations():
        operation = result.ok()
        if (role == "operator") != operation.path.startswith("/api/v1/admin"):
            continue
        outcome.operations += 1
        carried = credentials(role, house)

        @given(case=operation.as_strategy())
        @settings(max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        def ask(case):
            outcome.requests += 1
            if outcome.requests % 2:
                for name in case.path_parameters or {}:
                    case.path_parameters[name] = fill(f"{{{name}}}", house.ids)
            answer = case.call(**carried)
            outcome.statuses[answer.status_code] = outcome.statuses.get(answer.status_code, 0) + 1
            case.validate_response(answer, checks=CHECKS)

        ask()
    if role != "nobody":
        assert outcome.statuses.get(200), f"{role}: nothing was ever answered: {outcome.statuses}"
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome
