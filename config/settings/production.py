"""Only tightens: everything secret must come from the environment."""

from config.env import BadSetting, envbool, envlist
from config.settings import base
from config.settings.base import *  # noqa: F403

if len(base.SECRET_KEY) < 50:
    raise BadSetting("SECRET_KEY: set at least 50 random characters (or SECRET_KEY_FILE)")
DEBUG = False
OIDC_ALLOW_LOCAL = envbool("OIDC_ALLOW_LOCAL", False)
CSRF_TRUSTED_ORIGINS = envlist("CSRF_TRUSTED_ORIGINS", [base.PORTAL_URL] if base.PORTAL_URL.startswith("https://") else [])
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = True
SECURE_REDIRECT_EXEMPT = [r"^health$", r"^ready$", r"^health/ready$", r"^metrics$"]
SECURE_HSTS_SECONDS = 31536000
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
SECURE_HSTS_PRELOAD = True
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
