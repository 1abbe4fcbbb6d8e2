"""axe-core finds nothing on any page, light and dark, 360 px and 1280 px wide, and no page is wider than the screen. See pages.py."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from allauth.account.forms import default_token_generator
from allauth.account.models import EmailAddress, EmailConfirmationHMAC
from allauth.account.utils import user_pk_to_url_str
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, generate_totp_secret, hotp_value
from axe_playwright_python.base import AXE_SCRIPT
from django.contrib.admin.utils import quote
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.accounts.models import User
from apps.agents.models import Agent
from apps.agents.services import draft_save
from apps.apikeys.services import api_key_issue, api_key_rotate
from apps.audit.models import AuditEntry
from apps.billing.models import Invoice, InvoiceLine
from apps.common.actors import SYSTEM
from apps.conversations.models import Item, TurnTrace, VoiceSession
from apps.onboarding.services import workspace_create
from apps.teams.models import Membership, Role
from apps.teams.services import invitation_create
from apps.tenants.context import bound, bound_public
from apps.tenants.services import tenant_close, tenant_reserve, tenant_suspend
from apps.usage.limits import Level, limiter
from tests.browser.pages import pages

PASSWORD = "a-long-password-7"
BACKEND = "allauth.account.auth_backends.AuthenticationBackend"
WIDTHS = (1280, 360)
# all rules in the light; in the dark those that look at colours, the only ones that can come out differently
RULES = {"light": {}, "dark": {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}}
MOVED = {"account_reset_password_from_key"}  # hides the secret of its address in the session, then shows the page


class House:
    """A workspace with something on every page, and the people who see it."""

    def __init__(self):
        stamp = time.time_ns()
        self.tenant = workspace_create(name="Axe", slug=f"axe-{stamp % 10**9}")
        self.owner, self.with_mfa = self.person("owner", stamp), self.person("mfa", stamp)
        self.without_password = User.objects.create_user(f"oidc-{stamp}@example.com", None)
        self.operator = User.objects.create_superuser(f"boss-{stamp}@example.com", PASSWORD)
        self.secret = generate_totp_secret()
        TOTP.activate(self.with_mfa, self.secret)
        RecoveryCodes.activate(self.with_mfa)
        address = EmailAddress.objects.create(user=self.operator, email=self.operator.email)
        key, _ = api_key_issue(tenant=self.tenant, name="rotated", actor=SYSTEM, limits={"concurrent_sessions": 2})
        api_key_rotate(key=key, actor=SYSTEM)
        token = invitation_create(tenant=self.tenant, email=f"guest-{stamp}@example.com", role="viewer", actor=SYSTEM)[1]
        User.objects.bulk_create(User(email=f"crowd-{n}-{stamp}@example.com") for n in range(101))  # more than a page of a list
        making = tenant_reserve(name="Making", slug=f"making-{stamp % 10**9}")
        self.closed, self.suspended = (workspace_create(name=n, slug=f"{n}-{stamp % 10**9}") for n in ("closed", "suspended"))
        tenant_close(tenant=self.closed, actor=SYSTEM)
        tenant_suspend(tenant=self.suspended, actor=SYSTEM, reason="The invoice of May is open.")
        self.empty = workspace_create(name="Empty", slug=f"empty-{stamp % 10**9}")
        for tenant in (making, self.closed, self.suspended, self.empty):
            Membership.objects.create(tenant=tenant, user=self.owner, role=Role.OWNER)
        agent, session = self.talk()
        self.cookies = {who: self.cookie(getattr(self, who)) for who in ("without_password", "operator")}
        self.line = AuditEntry.objects.first().pk
        self.values = {
            "": {"slug": self.tenant.slug, "agent_id": agent, "session_id": session, "one": 1, "other": 2, "token": token, **self.invoice()},
            "progress": {"slug": making.slug},
            "account_confirm_email": {"key": EmailConfirmationHMAC(address).key},
            "account_reset_password_from_key": {"uidb36": user_pk_to_url_str(self.owner), "key": default_token_generator.make_token(self.owner)},
        }

    def person(self, word: str, stamp: int) -> User:
        user = User.objects.create_user(f"{word}-{stamp}@example.com", PASSWORD)
        EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
        Membership.objects.create(tenant=self.tenant, user=user, role=Role.OWNER)
        return user

    @staticmethod
    def cookie(user: User) -> str:
        client = Client()
        client.force_login(user, backend=BACKEND)
        return client.cookies["sessionid"].value

    def talk(self) -> tuple[str, str]:
        with bound(self.tenant):
            agent = Agent.objects.get()
            draft_save(agent=agent, actor=SYSTEM, tool_hosts=[], instructions="Be brief.")
            session = VoiceSession.objects.create(id=f"sess_{time.time_ns()}", agent_id=agent.id, agent_version=1, key_id="key_x", client="axe")
            limiter().enter((Level(self.tenant.id, {"concurrent_sessions": 9}),), session.id)
            for number, role in enumerate(("user", "assistant")):
                item = {"id": f"item_{number}", "type": "message", "role": role, "content": [{"type": "text", "text": "Seven plus five is twelve."}]}
                Item.objects.create(session=session, item_id=item["id"], type="message", role=role, item=item)
            TurnTrace.objects.create(session=session, turn_id=f"turn_{session.id}", status="completed", first_ms=560,
                                     segments=[["endpointing", 520.0], ["stt", 40.0]])  # fmt: skip
        return agent.id, session.id

    def invoice(self) -> dict[str, object]:
        days = {"starts": timezone.now(), "ends": timezone.now()}
        of = {"tenant": self.tenant, "currency": "usd"}
        invoice = Invoice.objects.create(**of, **days, created_at=days["ends"], number="VV-1", status="draft", total_cents=1200)
        line = InvoiceLine.objects.create(**of, **days, invoice=invoice, kind="usage", description="Audio in", meter="audio_in_ms", period=1,
                                          quantity=60_000, amount_micros=12_000_000, amount_cents=1200)  # fmt: skip
        return {"invoice_id": invoice.id, "line_id": line.id}

    def more(self) -> dict[str, list[tuple[str, str]]]:
        """Pages in states that the URLconf does not tell apart."""
        of = {n: f"/t/{t.slug}/" for n, t in (("closed", self.closed), ("suspended", self.suspended), ("empty", self.empty))}
        change = [("change", reverse("admin:tenants_tenant_change", args=[quote(self.tenant.id)])),
                  ("user", reverse("admin:accounts_user_change", args=[quote(self.owner.id)])),
                  ("line", reverse("admin:audit_auditentry_change", args=[quote(self.line)])), ("dashboard", "/admin/")]  # fmt: skip
        acts = [(act, reverse("admin:tenant-act", args=[self.tenant.id, act])) for act in ("suspend", "resume", "close", "reopen", "erase")]
        return {
            "stranger": [("no such page", "/nothing"), ("bad invitation", "/invitations/nonsense")],
            "owner": [("closed", of["closed"]), ("suspended", of["suspended"]),
                      *((f"empty {p}", of["empty"] + p) for p in ("", "keys", "sessions", "quickstart"))],  # fmt: skip
            "operator": [*change, *acts],
        }


@pytest.fixture(scope="module")
def house(stack, portal):
    """Made in a thread of its own: playwright keeps a loop running in this one."""

    def make() -> House:
        try:
            with bound_public():
                return House()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make).result()


def sign_in(context, portal: str, house: House, who: str, page) -> None:
    """By the form where the page asks how one signed in; else by a session made here."""
    if who in house.cookies:
        context.add_cookies([{"name": "sessionid", "value": house.cookies[who], "url": portal}])
    if who not in ("owner", "with_mfa"):
        return
    page.goto(f"{portal}/accounts/login/")
    page.fill("[name=login]", getattr(house, who).email)
    page.fill("[name=password]", PASSWORD)
    page.click("main button >> nth=0")
    page.wait_for_load_state()


def examine(page, name: str, found: dict[str, list[str]], again: bool) -> None:
    """`again`: the page chooses its colours while it loads."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        if again:
            page.reload()
            page.wait_for_load_state()
        page.evaluate(AXE_SCRIPT)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            where = f"{name} ({scheme}, {width} px)"
            for violation in page.evaluate("rules => axe.run({resultTypes: ['violations'], ...rules})", RULES[scheme])["violations"]:
                node = violation["nodes"][0]
                why = node["any"][0]["message"][:150] if node["any"] else ""
                found.setdefault(f"{violation['id']}: {violation['help']}", []).append(f"{where} {node['html'][:140]} {why}")
            if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
                found.setdefault("the page is wider than the screen", []).append(where)


@pytest.mark.timeout(600)  # four looks at fifty pages
@pytest.mark.parametrize("who", ["stranger", "owner", "with_mfa", "without_password", "operator"])
def test_axe_finds_nothing(browser, portal, house, who):
    context = browser.new_context(reduced_motion="reduce")
    page, found, seen = context.new_page(), {}, []
    sign_in(context, portal, house, who, page)
    for name, path in pages(house.values).get(who, []) + house.more().get(who, []):
        if name == "mfa_authenticate":  # where the form led
            assert urlsplit(page.url).path == path
            examine(page, name, found, again=False)
            page.fill("[name=code]", format_hotp_value(hotp_value(house.secret, int(time.time()) // 30)))
            page.click("main button >> nth=0")
            page.wait_for_url(f"{portal}/t/**")
            continue
        answer = page.goto(portal + path)
        if urlsplit(page.url).path == reverse("account_reauthenticate", urlconf="config.urls.portal") != path:
            page.fill("[name=password]", PASSWORD)
            page.click("main button >> nth=0")
            answer = page.goto(portal + path)
        assert answer.status < 500 and (urlsplit(page.url).path == path or name in MOVED), f"{name}: {path} led to {page.url} ({answer.status})"
        examine(page, name, found, again=who == "operator")
        seen.append(name)
    context.close()
    assert seen and not found, "\n".join(f"{rule}\n    " + "\n    ".join(places[:8]) for rule, places in found.items())
