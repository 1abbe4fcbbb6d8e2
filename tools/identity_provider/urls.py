from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.http import JsonResponse
from django.urls import include, path
from oauth2_provider import views
from oauth2_provider.models import AccessToken

from tools.identity_provider.claims import subject

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


def service_account(view):
    """With an access token of a client itself that may look accounts up."""

    def checked(request, **kwargs):
        token = AccessToken.objects.filter(token=request.headers.get("Authorization", "").removeprefix("Bearer ")).select_related("application").first()
        if token is None or token.is_expired():
            return JsonResponse({"error": "HTTP 401 Unauthorized"}, status=401)
        if token.user_id is not None or token.application.client_id not in settings.SERVICE_ACCOUNTS:
            return JsonResponse({"error": "HTTP 403 Forbidden"}, status=403)
        return view(request, **kwargs)

    return checked


def account(user) -> dict:
    return {"id": subject(user), "username": user.username, "email": user.email, "enabled": user.is_active}


@service_account
def accounts(request):
    return JsonResponse([account(u) for u in User.objects.order_by("pk")[: int(request.GET.get("max", 100))]], safe=False)


@service_account
def one_account(request, sub):
    found = next((u for u in User.objects.all() if subject(u) == sub), None)
    return JsonResponse(account(found)) if found else JsonResponse({"error": "User not found"}, status=404)


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
    path(f"admin/realms/{settings.REALM}/users", accounts),
    path(f"admin/realms/{settings.REALM}/users/<str:sub>", one_account),
    path("login/", LoginView.as_view()),
]
