from __future__ import annotations

from urllib.parse import urlencode

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core import context as current
from django.conf import settings
from django.contrib.sites.shortcuts import get_current_site

from apps.accounts.models import Issuer
from apps.common.mail import mail_later


class Adapter(DefaultAccountAdapter):
    """allauth's mail goes out like all mail: after the transaction, by the `default` worker."""

    def send_mail(self, template_prefix: str, email: str, context: dict) -> None:
        request = current.request
        message = self.render_mail(template_prefix, email, {"request": request, "email": email, "current_site": get_current_site(request), **context})
        mail_later(template_prefix.rsplit("/", 1)[-1], email, message.subject, message.body)

    def get_logout_redirect_url(self, request) -> str:
        return logout_url(request) or super().get_logout_redirect_url(request)


def logout_url(request) -> str:
    """Where to end the session at the provider too (RP-initiated logout); "" when it has no such page or the session is a local one."""
    issuer = Issuer.objects.filter(pk=request.session.get("oidc_issuer")).first()
    end, token = (issuer.endpoints.get("end_session") if issuer else None), request.session.get("oidc_id_token")
    if not end or not token:
        return ""
    return end + "?" + urlencode({"id_token_hint": token, "post_logout_redirect_uri": settings.PORTAL_URL + "/", "client_id": issuer.client_id})
