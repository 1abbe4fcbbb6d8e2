from __future__ import annotations

from django.apps import AppConfig


class ApiKeysConfig(AppConfig):
    name = "apps.apikeys"

    def ready(self) -> None:
        from apps.apikeys.services import keys_end_with, keys_rest, keys_work_again
        from apps.teams.liveness import identity_ended, identity_unvouched
        from apps.teams.oidc import identity_vouched

        for signal, act in ((identity_ended, keys_end_with), (identity_unvouched, keys_rest), (identity_vouched, keys_work_again)):
            signal.connect(lambda user, act=act, **_: act(user_id=user.id), weak=False, dispatch_uid=act.__name__)
