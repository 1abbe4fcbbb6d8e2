"""What a stranger does with a browser: signs up and is answered aloud, with a microphone or without; tries the API."""

from __future__ import annotations

import time

import pytest

from apps.tenants.context import bound_public
from apps.tenants.models import Tenant

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


def test_from_the_landing_page_to_a_spoken_answer(page, portal, stack):
    began = time.monotonic()
    slug = sign_up(page, portal, "Ada")
    address, key = (stack.base_url + "/v1", stack.ws_url + "/v1/realtime"), page.inner_text("#key")
    assert key.startswith("vv_")
    for language in ("Python", "JavaScript", "curl"):  # the reader's own address and key, without a click
        snippet = page.inner_text(f"pre[aria-label={language}]")
        assert key in snippet and (address[1] if language == "JavaScript" else address[0]) in snippet
    page.reload()
    assert key not in page.content()  # once
    page.click("nav >> text=Talk")
    page.evaluate("window.heardAudio = 0; document.addEventListener('vivavoce:audio', () => window.heardAudio++)")
    page.click("#connect")
    page.wait_for_selector("li.assistant", timeout=40000)
    page.wait_for_selector("#waterfall table", timeout=20000)
    assert "twelve" in page.inner_text("li.assistant").lower() and "seven plus five" in page.inner_text("li.user").lower()
    assert page.evaluate("window.heardAudio") > 0
    took = time.monotonic() - began
    print(f"from the landing page to the first spoken answer: {took:.1f} s")
    assert took < 120
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


def test_all_but_talking_works_without_javascript(browser, portal):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    slug = sign_up(page, portal, "Plain")
    first = page.inner_text("#key")
    assert first.startswith("vv_")
    page.goto(f"{portal}/t/{slug}/quickstart")
    page.click("text=Make a key")
    assert page.inner_text("#key").startswith("vv_") and page.inner_text("#key") != first
    page.goto(f"{portal}/t/{slug}/agents")
    page.click("tbody a >> nth=0")
    page.fill("[name=instructions]", "Answer in one word.")
    page.click("text=Save as draft")
    page.click("button:text-is('Publish')")
    page.wait_for_selector("text=Version 2 is published")
    page.goto(f"{portal}/t/{slug}/audit")
    page.fill("[name=action]", "agent.")
    page.click("text=Filter")
    assert "agent.published" in page.inner_text("tbody") and "api_key.issued" not in page.inner_text("tbody")
    page.goto(f"{portal}/t/{slug}/playground")
    assert "Talking needs JavaScript" in page.inner_text("noscript")
    context.close()


def test_the_api_explorer_works_offline_and_tries_an_operation(browser, portal):
    """Nothing is fetched from anywhere but the portal; a call is made with the reader's session."""
    context = browser.new_context()
    page, elsewhere = context.new_page(), []
    page.on("request", lambda request: request.url.startswith((portal, "data:")) or elsewhere.append(request.url))
    sign_up(page, portal, "Api")
    page.goto(f"{portal}/api/v1/docs")
    page.fill("#find", "/me")
    page.click("[data-path='/api/v1/me'] >> summary")
    page.click("[data-path='/api/v1/me'] >> text=Send")
    page.wait_for_selector("[data-path='/api/v1/me'] >> text=200 OK", timeout=10000)
    assert "tenant.own" in page.inner_text("[data-path='/api/v1/me'] output")
    context.close()
    assert not elsewhere
