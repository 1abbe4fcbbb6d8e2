"""From a stranger to a spoken answer by HTTP and WebSocket alone, against the addresses of a deployment.

GATEWAY_URL, GATEWAY_WS_URL and PORTAL_URL name one; without them the product is started here. Nothing else is asked of the machine:
no database, no Redis, no mailbox.
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
import wave
from pathlib import Path

import pytest
import requests
from websockets.sync.client import connect

PASSWORD = "a-long-password-7"
QUESTION = Path(__file__).resolve().parents[2] / "samples" / "question.wav"
TIMEOUT_S = 20


@pytest.fixture(scope="module")
def portal(request, stack) -> str:
    if not stack.external:
        request.getfixturevalue("default_worker")  # it makes workspaces
    return stack.start_portal()


def strange(**changed) -> dict:
    """The body of a sign-up by somebody nobody knows."""
    name = uuid.uuid4().hex[:12]
    return {"email": f"{name}@example.com", "password": PASSWORD, "workspace": f"Onboarding {name}", "accept_terms": True} | changed


def sign_up(portal: str, body: dict, **headers) -> requests.Response:
    return requests.post(f"{portal}/api/v1/auth/signup", json=body, headers=headers, timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def joined(portal) -> dict:
    """What a sign-up was answered with, and what it sent."""
    body = strange()
    answer = sign_up(portal, body)
    assert answer.status_code == 201, answer.text
    return body | answer.json()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_a_sign_up_is_answered_with_all_that_is_needed_to_begin(joined):
    assert {"tenant_id", "user_id", "agent_id", "api_key", "api_key_prefix"} <= set(joined)
    assert joined["api_key"].startswith(joined["api_key_prefix"]) and len(joined["api_key"]) > 40
    assert joined["tenant_id"].startswith("ten_") and joined["user_id"].startswith("usr_") and joined["agent_id"].startswith("agt_")


@pytest.mark.parametrize("changed, status, field", [
    ({"password": "short"}, 422, "password"), ({"accept_terms": False}, 422, "accept_terms"), ({"email": "no address"}, 422, "email"),
    ({"workspace": " "}, 422, "workspace"), ({"template": "pirate"}, 400, None), ({"colour": "red"}, 422, "colour"),
])  # fmt: skip
def test_a_sign_up_that_does_not_do_says_which_field(portal, changed, status, field):
    answer = sign_up(portal, strange(**changed))
    error = answer.json()["error"]
    assert answer.status_code == status and error["message"] and error["type"] and error["code"]
    assert field is None or field in error["fields"]


def test_a_second_account_with_an_email_is_a_conflict_and_a_repeat_is_not(portal):
    body, key = strange(), str(uuid.uuid4())
    first = sign_up(portal, body, **{"Idempotency-Key": key})
    again = sign_up(portal, body, **{"Idempotency-Key": key})
    assert first.status_code == again.status_code == 201 and first.json() == again.json() and again.headers["Idempotent-Replayed"] == "true"
    known = sign_up(portal, body | {"email": body["email"].upper()})
    assert known.status_code == 409 and known.json()["error"]["param"] == "email"


def test_the_new_key_opens_the_agent_and_it_answers_aloud(stack, portal, joined):
    began = time.monotonic()
    with wave.open(str(QUESTION)) as source:
        assert source.getframerate() == 24000
        pcm = source.readframes(source.getnframes())
    address = f"{stack.ws_url}/v1/realtime?model=default&assistant={joined['agent_id']}"
    with connect(address, additional_headers=bearer(joined["api_key"]), open_timeout=TIMEOUT_S) as socket:
        assert json.loads(socket.recv(TIMEOUT_S))["type"] == "session.created"
        for at in range(0, len(pcm), 1920):
            socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm[at : at + 1920]).decode()}))
        socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(48000 * 2)).decode()}))
        said, heard = "", b""
        while (event := json.loads(socket.recv(TIMEOUT_S)))["type"] != "response.done":
            said += event["delta"] if event["type"] == "response.output_audio_transcript.delta" else ""
            heard += base64.b64decode(event["delta"]) if event["type"] == "response.output_audio.delta" else b""
    assert event["response"]["status"] == "completed" and said and len(heard) > 24000, said
    assert time.monotonic() - began < 60


def test_its_owner_signs_in_and_finds_the_milestones_reached(portal, joined):
    browser = requests.Session()
    page = browser.get(f"{portal}/accounts/login/", timeout=TIMEOUT_S).text
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
    home = browser.post(f"{portal}/accounts/login/", {"login": joined["email"], "password": PASSWORD, "csrfmiddlewaretoken": token},
                        headers={"Referer": f"{portal}/accounts/login/"}, timeout=TIMEOUT_S)  # fmt: skip
    assert home.ok and home.url.endswith(f"/t/{joined['tenant_slug']}/"), home.url
    quickstart = browser.get(home.url + "quickstart", timeout=TIMEOUT_S).text
    assert joined["workspace"] in quickstart and "AsyncOpenAI" in quickstart and "curl" in quickstart
    until = time.monotonic() + TIMEOUT_S
    while {"signed_up", "first_session", "first_answer"} - set(browser.get(f"{portal}/api/v1/tenant", timeout=TIMEOUT_S).json()["milestones"]):
        assert time.monotonic() < until, "the milestones were not written"
        time.sleep(0.3)
    assert requests.get(home.url, timeout=TIMEOUT_S, allow_redirects=False).status_code == 302  # a stranger signs in first
