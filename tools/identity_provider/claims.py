from __future__ import annotations

import hashlib

from oauth2_provider.oauth2_validators import OAuth2Validator


class Validator(OAuth2Validator):
    """Claims as Keycloak gives them: a `sub` that is no counter, e-mail, groups with full paths. Users that are switched off get no token."""

    oidc_claim_scope = None

    def get_additional_claims(self, request):
        user = request.user
        return {"sub": hashlib.sha256(f"sub {user.pk}".encode()).hexdigest()[:32], "email": user.email, "email_verified": user.last_name != "unverified",
                "name": user.first_name, "groups": list(user.groups.values_list("name", flat=True))}  # fmt: skip

    def validate_refresh_token(self, refresh_token, client, request, *args, **kwargs):
        good = super().validate_refresh_token(refresh_token, client, request, *args, **kwargs)
        return good and request.user.is_active

    def validate_silent_login(self, request):
        """prompt=none: whoever has a session here (the view sends others away before this)."""
        return True

    def validate_silent_authorization(self, request):
        return True
