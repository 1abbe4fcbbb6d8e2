"""What a stranger does with a browser: signs up and is answered aloud; every page passes axe-core, light and dark, narrow and wide."""

from __future__ import annotations

import time

import pytest
from axe_playwright_python.sync_playwright import Axe

from apps.accounts.models import User
from apps.agents.models import Agent
from apps.agents.services import draft_save
from apps.common.actors import SYSTEM
from apps.conversations.models import VoiceSession
from apps.onboarding.services import workspace_create
from apps.teams.models import Membership, Role
from apps.teams.services import invitation_create
from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant
from config.urls.portal import workspace as workspace_urls

PASSWORD = "a-long-password-7"


@pytest.fixture
def page(browser):
    """A page of its own; anything it throws fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened, problems = context.new_page(), []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: message.type == "error" and "status of 4" not in message.text and problems.append(message.text))
    yield opened
    context.close()
    assert not problems


def sign_up(page, portal: str, name: str) -> str:
    page.goto(portal)
    page.click("text=Sign up >> nth=0")
    page.fill("[name=email]", f"{name}-{time.time_ns()}@example.com")
    page.fill("[name=password1]", PASSWORD)
    page.fill("[name=workspace]", f"{name} {time.time_ns() % 10**8}")
    page.check("[name=accept_terms]")
    page.click("main button")
    page.wait_for_url("**/quickstart", timeout=30000)
    return page.url.split("/t/")[1].split("/")[0]


def test_from_the_landing_page_to_a_spoken_answer(page, portal):
    began = time.monotonic()
    slug = sign_up(page, portal, "Ada")
    page.click("text=Make a key")
    assert page.inner_text("#key").startswith("vv_")
    page.click("nav >> text=Talk")
    page.evaluate("window.heardAudio = 0; document.addEventListener('vivavoce:audio', () => window.heardAudio++)")
    page.click("#connect")
    page.wait_for_selector("li.assistant", timeout=40000)
    page.wait_for_selector("#waterfall table", timeout=20000)
    assert "twelve" in page.inner_text("li.assistant").lower() and "seven plus five" in page.inner_text("li.user").lower()
    assert page.evaluate("window.heardAudio") > 0
    assert time.monotonic() - began < 120
    with bound_public():
        assert {"signed_up", "first_session", "first_answer"} <= set(Tenant.objects.get(slug=slug).milestones)


def test_without_a_microphone_clips_and_typing_do(page, portal):
    sign_up(page, portal, "Clip")
    page.click("nav >> text=Talk")
    page.click("#quiet")
    page.wait_for_selector("text=Connected.", timeout=20000)
    page.click("[data-clip*=name]")
    page.wait_for_selector("li.assistant", timeout=30000)
    page.wait_for_selector("text=Your turn.", timeout=30000)
    page.fill("#text", "count to twenty")
    page.press("#text", "Enter")
    page.wait_for_selector("text=Speaking", timeout=20000)
    page.click("#interrupt")
    page.wait_for_selector("text=Your turn.", timeout=20000)
    page.select_option("#voice", "ash")
    page.fill("#text", "what is two plus three")
    page.press("#text", "Enter")
    page.wait_for_selector("li.assistant >> text=five", timeout=20000)
    page.click("#end")
    page.wait_for_selector("text=Ended.")


def test_a_refused_microphone_is_explained(browser, portal):
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', 'NotAllowedError'))")
    sign_up(page, portal, "Mute")
    page.click("nav >> text=Talk")
    page.click("#connect")
    page.wait_for_selector("text=set Microphone to Allow", timeout=10000)
    context.close()


PUBLIC = ("", "docs", "accounts/login/", "accounts/signup/", "accounts/password/reset/", "api/v1/docs")
OWN = ("account", "new", "accounts/password/change/", "accounts/email/", "accounts/2fa/", "accounts/2fa/totp/activate/", "accounts/sessions/", "accounts/logout/")


@pytest.fixture(scope="module")
def furnished(stack):
    """A workspace with something on every page: (slug, paths of its pages, e-mail, invitation)."""
    with bound_public():
        tenant = workspace_create(name="Axe", slug=f"axe-{time.time_ns() % 10**9}")
        user = User.objects.create_user(f"axe-{time.time_ns()}@example.com", PASSWORD)
        Membership.objects.create(tenant=tenant, user=user, role=Role.OWNER)
        token = invitation_create(tenant=tenant, email=f"guest-{time.time_ns()}@example.com", role="viewer", actor=SYSTEM)[1]
        with bound(tenant):
            agent = Agent.objects.get()
            draft_save(agent=agent, actor=SYSTEM, tool_hosts=[], instructions="Be brief.")
            VoiceSession.objects.create(id=f"sess_{time.time_ns()}", agent_id=agent.id, agent_version=1, key_id="key_x")
            session = VoiceSession.objects.get().id
    values = {"agent_id": agent.id, "session_id": session, "one": 1, "other": 2}
    pages = []
    for url in workspace_urls:  # every page of a workspace that is read with GET
        route = str(url.pattern)
        if any(word in route for word in ("<str:key_id>", "<str:member_id>", "<str:invitation_id>", "<agentact", "/end", "/secret", "close", "reopen", ".csv")):
            continue
        for name, value in values.items():
            route = route.replace(f"<str:{name}>", str(value)).replace(f"<int:{name}>", str(value))
        pages.append(f"t/{tenant.slug}/{route}")
    return pages, user.email, f"invitations/{token}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(browser, portal, furnished, scheme, width):
    pages, email, invitation = furnished
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, found = context.new_page(), {}

    def look(path: str) -> None:
        answer = page.goto(f"{portal}/{path}")
        assert answer.ok, f"{path}: {answer.status}"
        result = Axe().run(page)
        for violation in result.response["violations"]:
            found.setdefault(f"{violation['id']}: {violation['help']}", []).append(f"/{path} {violation['nodes'][0]['html'][:160]}")
        if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            culprits = page.evaluate("""[...document.querySelectorAll('main *, header *')].filter(e => !e.closest('.scroll, pre, .hidden')
                && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120)).slice(0, 3)""")
            found.setdefault("the page is wider than the screen", []).append(f"/{path} {culprits}")

    for path in PUBLIC[:-1] + (invitation,):
        look(path)
    page.goto(f"{portal}/accounts/login/")
    page.fill("[name=login]", email)
    page.fill("[name=password]", PASSWORD)
    page.click("main button >> nth=0")
    page.wait_for_url(f"{portal}/t/**")
    for path in (*OWN, *pages):
        look(path)
    context.close()
    assert not found, "\n".join(f"{rule}\n    " + "\n    ".join(places[:6]) for rule, places in found.items())


def test_the_api_explorer_works_offline(page, portal):
    page.goto(f"{portal}/api/v1/docs")
    page.wait_for_selector("[data-path='/api/v1/agents'] >> nth=0", timeout=20000)
