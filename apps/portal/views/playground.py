from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from apps.agents.models import Agent
from apps.apikeys.services import Principal, client_secret_mint
from apps.portal.views.access import in_workspace
from apps.portal.views.agents import VOICES
from apps.tenants.context import Bound

CLIPS = (  # samples/<name>.wav and what it says
    ("question", "What is seven plus five?"), ("name", "My name is Alice"), ("who", "What is my name?"), ("story", "Tell me a story"),
    ("count", "Count to fifty"), ("weather", "The weather in Paris?"), ("light", "Turn off the kitchen light"),
)  # fmt: skip


@in_workspace("talk")
@require_safe
def playground(request: HttpRequest, tenant) -> HttpResponse:
    agents = list(Agent.objects.filter(deleted_at=None).exclude(published=None).order_by("-is_default", "created_at").select_related("published"))
    return render(request, "portal/playground.html", {
        "tenant": tenant, "agents": agents, "chosen": request.GET.get("agent", ""), "clips": CLIPS, "voices": VOICES,
        "ws_url": settings.GATEWAY_WS_URL + "/v1/realtime",
    })  # fmt: skip


@in_workspace("talk")
@require_POST
def playground_secret(request: HttpRequest, tenant) -> JsonResponse:
    """A client secret like any browser client gets; the page connects with it and nothing else."""
    principal = Principal(Bound(tenant.id, tenant.schema_name, tenant.slug), "", frozenset({"realtime:connect"}))
    row, secret = client_secret_mint(principal=principal, session={"type": "realtime"}, seconds=60, user_id=request.user.id)
    return JsonResponse({"value": secret, "expires_at": int(row.expires_at.timestamp())})
