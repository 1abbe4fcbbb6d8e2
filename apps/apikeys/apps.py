from __future__ import annotations

from django.apps import AppConfig


class ApiKeysConfig(AppConfig):
    name = "apps.apikeys"

    def ready(self) -> None:
        from apps.apikeys.services import keys_end_with
        from apps.teams.oidc import identity_ended

        identity_ended.connect(lambda user, **_: keys_end_with(user_id=user.id), weak=False, dispatch_uid="keys")
