from __future__ import annotations

from django.contrib import messages
from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.agents import services
from apps.agents.models import Agent, AgentVersion
from apps.portal.agent_form import TOOL_EXAMPLE, EditAgent
from apps.portal.forms import NewAgent
from apps.portal.views.access import found, in_workspace

VOICES = ("alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar")
LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pl", "pt", "sv", "tr")


def _agent(agent_id: str) -> Agent:
    return found(Agent.objects.select_related("published").filter(pk=agent_id, deleted_at=None).first())


@in_workspace("agents.read", write="agents.write")
@require_http_methods(["GET", "POST"])
def agent_list(request: HttpRequest, tenant) -> HttpResponse:
    form = NewAgent(request.POST or None)
    if request.method == "POST" and form.is_valid():
        fields = services.template_fields(form.cleaned_data["template"])
        agent = services.agent_create(name=form.cleaned_data["name"], actor=request.actor, tool_hosts=tenant.tool_hosts, **fields)
        return redirect("agent", slug=tenant.slug, agent_id=agent.id)
    drafts = Exists(AgentVersion.objects.filter(agent=OuterRef("pk"), published_at=None))
    rows = list(Agent.objects.filter(deleted_at=None).select_related("published").annotate(has_draft=drafts))
    return render(request, "portal/agents.html", {"tenant": tenant, "agents": rows, "form": form})


@in_workspace("agents.read", write="agents.write")
@require_http_methods(["GET", "POST"])
def agent_detail(request: HttpRequest, tenant, agent_id: str) -> HttpResponse:
    agent = _agent(agent_id)
    draft = services.draft_of(agent)
    form = EditAgent(request.POST or None, version=draft or agent.published)
    if request.method == "POST" and form.is_valid():
        services.draft_save(agent=agent, actor=request.actor, tool_hosts=tenant.tool_hosts, **form.version_fields())
        messages.success(request, "Saved as a draft. Sessions get it when you publish it.")
        return redirect("agent", slug=tenant.slug, agent_id=agent.id)
    versions = list(agent.versions.all()[:100])
    return render(request, "portal/agent.html", {
        "tenant": tenant, "agent": agent, "draft": draft, "form": form, "versions": versions,
        "changes": services.versions_compare(agent.published, draft) if draft and agent.published else [],
        "may_write": request.actor.can("agents.write"), "voices": VOICES, "languages": LANGUAGES, "tool_example": TOOL_EXAMPLE,
    })  # fmt: skip


@in_workspace("agents.write")
@require_POST
def agent_act(request: HttpRequest, tenant, agent_id: str, what: str) -> HttpResponse:
    """publish, discard, default, delete, or roll back to `number`."""
    agent, actor = _agent(agent_id), request.actor
    if what == "publish":
        version = services.agent_publish(agent=agent, actor=actor)
        messages.success(request, f"Version {version.number} is published: new sessions get it.")
    elif what == "discard":
        services.draft_discard(agent=agent, actor=actor)
    elif what == "default":
        services.agent_update(agent=agent, actor=actor, is_default=True)
    elif what == "delete":
        services.agent_delete(agent=agent, actor=actor)
        return redirect("agents", slug=tenant.slug)
    else:
        number = request.POST.get("number", "")
        services.agent_roll_back(agent=agent, number=int(number) if number.isdecimal() and len(number) < 10 else 0, actor=actor)
        messages.success(request, f"New sessions get version {number} again.")
    return redirect("agent", slug=tenant.slug, agent_id=agent.id)


@in_workspace("agents.read")
@require_safe
def agent_compare(request: HttpRequest, tenant, agent_id: str, one: int, other: int) -> HttpResponse:
    agent = _agent(agent_id)
    a, b = services.version_get(agent, one), services.version_get(agent, other)
    return render(request, "portal/compare.html", {"tenant": tenant, "agent": agent, "a": a, "b": b, "changes": services.versions_compare(a, b)})
