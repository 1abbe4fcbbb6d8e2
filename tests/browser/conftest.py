"""A real Chromium whose microphone hears samples/question.wav."""

from __future__ import annotations

import os
import shutil
import wave

import pytest
from playwright.sync_api import sync_playwright


@pytest.fixture(scope="session")
def microphone(tmp_path_factory):
    """Three seconds of quiet, the question, eight of quiet; Chromium plays it in a circle."""
    path = tmp_path_factory.mktemp("microphone") / "question.wav"
    with wave.open("samples/question.wav") as source, wave.open(str(path), "wb") as target:
        target.setparams(source.getparams())
        quiet = bytes(2 * source.getframerate())
        target.writeframes(quiet * 3 + source.readframes(source.getnframes()) + quiet * 8)
    return path


@pytest.fixture(scope="module")
def browser(microphone, portal):
    program = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
    assert program, "no Chromium found: run tests/browser/install.sh, or install it"
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # playwright keeps a loop running in this thread; the tests' own queries are plain calls
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=[
            "--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={microphone}",
            "--autoplay-policy=no-user-gesture-required",
        ])  # fmt: skip
        yield running
        running.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture(scope="session")
def portal(stack, default_worker):
    """Address of the running portal, whose pages lead to the running gateway."""
    return stack.start_portal()
