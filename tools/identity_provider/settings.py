"""Settings of the provider. Its folder holds the database and the signing key."""

import json
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

FOLDER = Path(os.environ["IDP_FOLDER"])
PORT = int(os.environ.get("IDP_PORT", "18080"))
REALM = "vivavoce"
REALM_FILE = Path(__file__).resolve().parents[2] / "deploy" / "keycloak" / "realm.json"
# Clients with a service account that may look accounts up
SERVICE_ACCOUNTS = {u["serviceAccountClientId"] for u in json.loads(REALM_FILE.read_text())["users"]
                    if "view-users" in u.get("clientRoles", {}).get("realm-management", ())} if os.environ.get("IDP_LOOKUP", "1") == "1" else set()  # fmt: skip
ISSUER = f"http://localhost:{PORT}/realms/{REALM}"


def _key() -> str:
    path = FOLDER / "signing.pem"
    if not path.exists():
        key = rsa.generate_private_key(65537, 2048)
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return path.read_text()


SECRET_KEY = "the provider for tries and tests " * 2
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django.contrib.messages", "oauth2_provider"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware", "django.contrib.auth.middleware.AuthenticationMiddleware",
              "django.contrib.messages.middleware.MessageMiddleware"]  # fmt: skip
ROOT_URLCONF = "tools.identity_provider.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "DIRS": [Path(__file__).parent / "templates"],
              "OPTIONS": {"context_processors": ["django.template.context_processors.request", "django.contrib.auth.context_processors.auth"]}}]  # fmt: skip
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "provider.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SESSION_COOKIE_NAME = "idp_session"  # ports do not keep cookies of one host apart
LOGIN_URL = "/login/"
USE_TZ = True
OAUTH2_PROVIDER = {
    "OIDC_ENABLED": True, "OIDC_RSA_PRIVATE_KEY": _key(), "OIDC_ISS_ENDPOINT": ISSUER, "PKCE_REQUIRED": True,
    "OIDC_RP_INITIATED_LOGOUT_ENABLED": True, "OIDC_RP_INITIATED_LOGOUT_ALWAYS_PROMPT": False,
    "SCOPES": {"openid": "sign in", "email": "e-mail", "profile": "name", "groups": "groups", "offline_access": "stay known"}, "ACCESS_TOKEN_EXPIRE_SECONDS": 300,
    "OAUTH2_VALIDATOR_CLASS": "tools.identity_provider.claims.Validator", "REQUEST_APPROVAL_PROMPT": "auto", "ROTATE_REFRESH_TOKEN": True,
    "OIDC_RP_INITIATED_LOGOUT_DELETE_TOKENS": os.environ.get("IDP_OFFLINE", "1") != "1",  # as Keycloak: offline tokens outlive the session
    "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": 60,
}  # fmt: skip
