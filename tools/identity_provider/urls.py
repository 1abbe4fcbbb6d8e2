from django.conf import settings
from django.contrib.auth.views import LoginView
from django.http import JsonResponse
from django.urls import include, path
from oauth2_provider import views

OFFLINE = not settings.OAUTH2_PROVIDER["OIDC_RP_INITIATED_LOGOUT_DELETE_TOKENS"]
BASE = f"realms/{settings.REALM}/protocol/openid-connect"


def discovery(request):
    at = f"{settings.ISSUER}/protocol/openid-connect"
    return JsonResponse({
        "issuer": settings.ISSUER, "authorization_endpoint": f"{at}/auth", "token_endpoint": f"{at}/token", "userinfo_endpoint": f"{at}/userinfo",
        "jwks_uri": f"{at}/certs", "end_session_endpoint": f"{at}/logout", "response_types_supported": ["code"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"], "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["openid", "email", "profile", *(["offline_access"] if OFFLINE else [])],
    })  # fmt: skip


provider = ([
    path("auth", views.AuthorizationView.as_view(), name="authorize"),
    path("token", views.TokenView.as_view(), name="token"),
    path("userinfo", views.UserInfoView.as_view(), name="user-info"),
    path("certs", views.JwksInfoView.as_view(), name="jwks-info"),
    path("logout", views.RPInitiatedLogoutView.as_view(), name="rp-initiated-logout"),
], "oauth2_provider")  # fmt: skip
urlpatterns = [
    path(f"realms/{settings.REALM}/.well-known/openid-configuration", discovery),
    path(f"{BASE}/", include(provider)),
    path("login/", LoginView.as_view()),
]
