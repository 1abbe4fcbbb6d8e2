"""The doors of OpenID Connect: to the provider, back from it, and a tenant's own provider."""

from __future__ import annotations

import logging
from urllib.parse import parse_qs, urlsplit

import requests
from django import forms
from django.contrib import messages
from django.contrib.auth import logout
from django.core.exceptions import SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe
from mozilla_django_oidc.views import OIDCAuthenticationCallbackView, OIDCAuthenticationRequestView

from apps.accounts.models import Issuer
from apps.portal.forms import JsonText
from apps.portal.views.access import found, in_workspace
from apps.teams.models import Role
from apps.teams.oidc import TRUST_MINUTES, answer_setting, issuer_save, of_issuer

log = logging.getLogger("vivavoce.oidc")
SIGNED_OUT_THERE = ("login_required", "interaction_required", "consent_required", "account_selection_required")
PENDING = 20  # sign-ins under way a session keeps


class _Ask(OIDCAuthenticationRequestView):
    get_settings = staticmethod(answer_setting)

    def get_extra_params(self, request):
        return {"prompt": "none"} if request.GET.get("prompt") == "none" else {}


class _Back(OIDCAuthenticationCallbackView):
    get_settings = staticmethod(answer_setting)


@never_cache
@require_safe
def start(request: HttpRequest, issuer_id: str) -> HttpResponse:
    issuer = found(Issuer.objects.select_related("tenant").filter(pk=issuer_id, active=True).first())
    if request.own_slug and issuer.tenant and issuer.tenant.slug != request.own_slug:
        raise Http404  # another workspace's
    with of_issuer(issuer):
        answer = _Ask.as_view()(request)
    state = parse_qs(urlsplit(answer.url).query)["state"][0]
    pending = request.session.get("oidc_pending", [])[-PENDING + 1 :]
    request.session["oidc_pending"] = [*pending, [state, issuer.id]]
    return answer


@never_cache
@require_safe
def callback(request: HttpRequest) -> HttpResponse:
    """Back from the provider named by the state we gave; anything else is refused with a page that says why."""
    pending = dict(request.session.get("oidc_pending", []))
    issuer = Issuer.objects.filter(pk=pending.get(request.GET.get("state", "")), active=True).first()
    if issuer is None:
        return _refused(request, "this sign-in was not begun here, or too long ago")
    request.session["oidc_pending"] = [p for p in request.session["oidc_pending"] if p[0] != request.GET["state"]]
    if request.GET.get("error") in SIGNED_OUT_THERE and request.session.get("oidc_issuer") == issuer.id:
        logout(request)
        messages.success(request, "You are signed out at your provider; sign in again.")
        return redirect("account_login")
    if request.GET.get("error"):
        return _refused(request, f"the provider said {request.GET['error'][:60]!r}")
    try:
        with of_issuer(issuer):
            answer = _Back.as_view()(request)
    except SuspiciousOperation as error:
        return _refused(request, str(error))
    except (requests.RequestException, ValueError) as error:
        log.warning("issuer %s: %s", issuer.id, type(error).__name__)
        return _refused(request, "the provider did not answer as expected; try again")
    if not request.user.is_authenticated:
        return _refused(request, "the provider's answer does not let you in")
    request.session["oidc_issuer"] = issuer.id
    return answer


def _refused(request: HttpRequest, why: str) -> HttpResponse:
    return render(request, "portal/notice.html", {"title": "Sign-in not completed", "text": f"You are not signed in: {why}."}, status=400)


class IssuerForm(forms.Form):
    name = forms.CharField(label="Name on the sign-in page", max_length=80, initial="Single sign-on")
    issuer = forms.URLField(label="Issuer (its discovery document is read)", max_length=300, assume_scheme="https")
    client_id = forms.CharField(label="Client id", max_length=200)
    client_secret = forms.CharField(label="Client secret", required=False, max_length=500, widget=forms.PasswordInput(attrs={"autocomplete": "off"}))
    claim = forms.CharField(label="Claim that holds groups or roles", max_length=80, initial="groups")
    roles = JsonText(dict, label='Value of the claim to role (JSON object, e.g. {"/staff": "developer"})')
    trust_minutes = forms.IntegerField(label="Minutes to trust people it cannot be asked about", min_value=0, max_value=TRUST_MINUTES, initial=0, required=False,
                                       help_text="Only where the provider neither offers offline_access nor lets this client look up accounts: after a minute without "
                                                 "word of somebody the keys they made rest until they sign in again. 0 = just that minute.")  # fmt: skip
    default_role = forms.ChoiceField(label="Role of everybody else", required=False, choices=[("", "no access"), *[c for c in Role.choices if c[0] != Role.OWNER]])


@in_workspace("tenant.read", write="tenant.write")
@require_http_methods(["GET", "POST"])
def issuer(request: HttpRequest, tenant) -> HttpResponse:
    form = IssuerForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        issuer_save(tenant=tenant, actor=request.actor, **{**form.cleaned_data, "trust_minutes": form.cleaned_data["trust_minutes"] or 0})
        messages.success(request, "Saved. Try its sign-in page in another browser before you rely on it.")
        return redirect("settings", slug=tenant.slug)
    return render(request, "portal/workspace_form.html", {"tenant": tenant, "form": form, "title": "OpenID provider", "submit": "Save"})
