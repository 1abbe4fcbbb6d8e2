from __future__ import annotations

from django.apps import AppConfig


class TeamsConfig(AppConfig):
    name = "apps.teams"

    def ready(self) -> None:
        from django.contrib.auth.signals import user_logged_out

        from apps.teams.liveness import forget_at_sign_out

        user_logged_out.connect(lambda request, user, **_: forget_at_sign_out(request, user), weak=False, dispatch_uid="oidc")
