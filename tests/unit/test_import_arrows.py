"""The import arrows of docs/architecture.md, read off the sources with `ast`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOUNS = ["common", "audit", "tenants", "accounts", "teams", "apikeys", "agents", "conversations", "usage", "billing", "webhooks", "onboarding"]
DOORS = {"portal", "api"}
ENGINE_HEAVY = {"faster_whisper", "ctranslate2", "tokenizers", "jinja2", "vllm", "transformers", "httpx", "espeakng_loader", "kokoro_onnx"}
# package -> (own prefixes it may import, third-party top-level names; None = any)
VOICE = {
    "voice/core": (("voice.core",), set()),
    "voice/audio": (("voice.audio", "voice.core.speech", "voice.core.g711"), {"numpy", "onnxruntime", "av"}),
    "voice/bus": (("voice.bus", "voice.core"), {"redis", "hiredis", "msgspec"}),
    "voice/engines": (("voice.engines", "voice.audio"), {"numpy", "soxr"} | ENGINE_HEAVY),
    "voice/workers": (("voice.workers", "voice.core.jobs", "voice.bus", "voice.engines"), {"celery", "numpy", "soxr"}),
    "voice/gateway": (("voice.gateway", "voice.core", "voice.audio", "voice.bus", "apps.common"), None),
}
SERVICES = {"voice/gateway/auth.py", "voice/gateway/store.py", "voice/gateway/limits.py", "voice/gateway/purse.py",
            "voice/gateway/client_secrets.py", "voice/gateway/rest/door.py"}  # the only ones that may call the noun apps


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(folder: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*.py") if "migrations" not in p.parts)


def ours(name: str) -> bool:
    return name.split(".")[0] in ("apps", "voice", "config", "tests", "bench", "tools")


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(p + ".") or p.startswith(name + ".") for p in prefixes)


@pytest.mark.parametrize("folder", VOICE)
def test_voice_packages_import_only_what_they_may(folder):
    prefixes, third_party = VOICE[folder]
    for path in files(folder):
        relative = str(path.relative_to(ROOT))
        for name in imports(path):
            if ours(name):
                allowed = within(name, prefixes) or relative in SERVICES and name.startswith("apps.")
                assert allowed, f"{relative} imports {name}"
            elif third_party is not None and name.split(".")[0] not in sys.stdlib_module_names:
                assert name.split(".")[0] in third_party, f"{relative} imports {name}"


def test_heavy_libraries_are_imported_inside_functions():
    for path in files("voice/engines"):
        heavy = {n.split(".")[0] for n in imports(path, top_level_only=True)} & (ENGINE_HEAVY - {"httpx"})
        assert not heavy, f"{path.name} imports {heavy} at the top"


def test_the_core_is_pure():
    for path in files("voice/core"):
        assert not imports(path) & {"asyncio", "time", "random", "secrets", "socket", "threading", "datetime"}, path.name


@pytest.mark.parametrize("app", NOUNS)
def test_noun_apps_import_only_to_their_left(app):
    allowed = tuple(f"apps.{n}" for n in NOUNS[: NOUNS.index(app) + 1])
    for path in files(f"apps/{app}"):
        for name in imports(path):
            if ours(name):
                assert within(name, allowed), f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("door", sorted(DOORS))
def test_doors_never_import_each_other_nor_voice(door):
    other = f"apps.{(DOORS - {door}).pop()}"
    for path in files(f"apps/{door}"):
        for name in imports(path):
            assert not name.startswith((other + ".", "voice.")) and name != other, f"{path.relative_to(ROOT)} imports {name}"


def test_nobody_sets_the_schema_but_the_tenants_app():
    allowed = {ROOT / "apps/tenants/services.py"}
    for folder in ("apps", "voice", "config"):
        for path in files(folder):
            text = path.read_text()
            if path not in allowed:
                for word in ("schema_context", "tenant_context", ".set_tenant(", ".set_schema(", "set_schema_to_public"):
                    assert word not in text, f"{path.relative_to(ROOT)} uses {word}"


def test_one_folder_knows_the_payment_provider():
    """Beside it only dj-stripe's own migration, and the silencing of its check."""
    for folder in ("apps", "voice", "config"):
        for path in sorted(p for p in (ROOT / folder).rglob("*.py") if "djstripe_migrations" not in p.parts):
            relative = path.relative_to(ROOT)
            for name in imports(path):
                if name.split(".")[0] in ("stripe", "djstripe"):
                    assert relative.is_relative_to("apps/billing/stripe") or str(relative) == "apps/billing/apps.py" and name.startswith("djstripe.checks"), f"{relative} imports {name}"


def test_the_billing_sandbox_stands_alone():
    """A process of its own that knows nothing of the product: the standard library and its HTTP server."""
    for path in files("tools/billing_sandbox"):
        for name in imports(path):
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names or name.startswith("tools.billing_sandbox") or name in ("tools", "uvicorn"), f"{path.name} imports {name}"


def test_schemas_of_the_api_have_names_of_their_own():
    """The OpenAPI document keeps one schema a name: a second of the same name would describe both answers, one of them wrongly."""
    names = [node.name for path in files("apps/api/v1") for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
             and any(isinstance(b, ast.Name) and b.id in ("Schema", "Body") or isinstance(b, ast.Name) and b.id.endswith("Out") for b in node.bases)]  # fmt: skip
    assert sorted(names) == sorted(set(names)), [n for n in names if names.count(n) > 1]
