"""The two ASGI applications: `gateway` (WebSocket /v1/realtime and /v1 REST) and `portal` (pages and admin)."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")

from django.core.asgi import get_asgi_application  # noqa: E402

import config.celery  # noqa: E402, F401  the app tasks are sent with

portal = get_asgi_application()

from voice.gateway.application import build  # noqa: E402

gateway = build(portal)
