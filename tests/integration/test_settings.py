"""Settings: production is clean, bad values are refused by name, and the compose file names what exists."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml

from apps.common.launch.servers import new_secret
from config.catalogue import CATALOGUE
from config.logs import redact
from tests.infrastructure import ROOT


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "manage.py", *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


def test_check_deploy_is_clean(servers):
    result = manage("check", "--deploy", "--fail-level", "WARNING", DJANGO_SETTINGS_MODULE="config.settings.production", SECRET_KEY=new_secret() + new_secret())
    assert result.returncode == 0 and "no issues" in result.stdout + result.stderr, result.stderr


def test_production_refuses_a_short_secret():
    result = manage("check", DJANGO_SETTINGS_MODULE="config.settings.production", SECRET_KEY="short")
    assert result.returncode != 0 and "SECRET_KEY" in result.stderr


def test_no_migration_is_missing(database):
    result = manage("makemigrations", "--check", "--dry-run")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("name", "value", "words"), [
    ("STT_DEADLINE_MS", "5s", "STT_DEADLINE_MS='5s': expected a whole number"), ("DATABASE_URL", "mysql://x", "expected postgresql://"),
    ("DEBUG", "maybe", "DEBUG='maybe': expected 1 or 0"), ("SECRET_KEY_FILE", "/no/such/file", "cannot be read"),
])  # fmt: skip
def test_bad_settings_are_named(name, value, words):
    result = manage("check", **{name: value})
    assert result.returncode != 0 and words in result.stderr


def test_settings_work_with_no_environment():
    environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME")}
    code = "import django; from apps.tenants.context import bound_public\nwith bound_public(): django.setup()"
    result = subprocess.run([sys.executable, "-c", f"import os; os.environ['DJANGO_SETTINGS_MODULE']='config.settings.local'; {code}"],
                            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_the_compose_file_brings_every_process_on_its_port():
    services = yaml.safe_load((ROOT / "docker-compose.test.yml").read_text())["services"]
    assert {"postgres", "redis", "gateway", "portal", "stt", "llm", "tts", "default"} <= set(services)
    ports = {name: s["ports"][0].split(":")[0] for name, s in services.items() if "ports" in s}
    assert ports == {"postgres": "15432", "redis": "16379", "gateway": "25000", "portal": "28000", "keycloak": "18080", "billing_sandbox": "12111"}
    for name in ("stt", "llm", "tts"):
        assert f"-Q {name} " in services[name]["command"] and "config.workers:app" in services[name]["command"]


def test_models_are_listed():
    result = manage("models", "list")
    assert "embedded-closed-vocab" in result.stdout and all(name in result.stdout for name in CATALOGUE)
    result = manage("models", "pull", "nothing")
    assert result.returncode != 0 and "there are:" in result.stderr


def test_logs_are_redacted():
    key = "vv_abcdefgh" + "x" * 49
    for line in (f"GET /v1/realtime?access_token={key}&a=1", f"Bearer {key}", f"protocols realtime, openai-insecure-api-key.{key}", f"key {key}", f"key {key.replace('vv_', 'ek_')}", f"key {key.replace('vv_', 'vo_')}", f"Not Found: /invitations/{key}"):
        assert "xxxx" not in redact(line)
    assert redact("redis://:secretword@127.0.0.1/0") == "redis://:…@127.0.0.1/0"
