"""Settings that work with no environment at all: defaults of the embedded servers. Each is read once, here or in config/voice.py."""

from __future__ import annotations

import functools
from urllib.parse import unquote, urlsplit

from config import admin, voice
from config.redis import channel_hosts, connect, connect_async, counters_url
from config.env import ROOT, VAR, BadSetting, embedded_secret, envbool, envint, envlist, envsecret, envstr

BASE_DIR = ROOT
VAR_DIR = VAR
SECRET_KEY = envsecret("SECRET_KEY") or embedded_secret("secret_key") or "only-for-commands-that-run-before-the-first-start"
DEBUG = envbool("DEBUG", False)
ALLOWED_HOSTS = envlist("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]", ".localhost"])

SHARED_APPS = [
    "daphne",
    "django_tenants",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "unfold",
    "django.contrib.admin",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "ninja",
    "channels",
    "djstripe",
    "apps.common",
    "apps.audit",
    "apps.tenants",
    "apps.accounts",
    "apps.teams",
    "apps.apikeys",
    "apps.billing",
    "apps.onboarding",
    "apps.portal",
    "apps.api",
    "voice.gateway",
]
TENANT_APPS = ["apps.audit", "apps.agents", "apps.conversations", "apps.usage"]
INSTALLED_APPS = SHARED_APPS + [app for app in TENANT_APPS if app not in SHARED_APPS]

# dj-stripe's own migrations take 40 s: ours is one, made of its models (`makemigrations djstripe` after an upgrade; a test checks).
MIGRATION_MODULES = {"djstripe": "apps.billing.djstripe_migrations"}
TENANT_MODEL = "tenants.Tenant"
TENANT_DOMAIN_MODEL = "tenants.Domain"
TENANT_LIMIT_SET_CALLS = False
AUTH_USER_MODEL = "accounts.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend", "apps.teams.oidc.Backend"]
OIDC_ALLOW_LOCAL = envbool("OIDC_ALLOW_LOCAL", True)  # issuers on this machine and in private networks; off in production
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "home"

# Local accounts: django-allauth
EMAIL_URL = envsecret("EMAIL_URL")  # smtp://user:password@host:port or smtps://…; without it mail is printed by the `default` worker
DEFAULT_FROM_EMAIL = envstr("DEFAULT_FROM_EMAIL", "Vivavoce <no-reply@localhost>")
ACCOUNT_ADAPTER = "apps.accounts.adapter.Adapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_SIGNUP_FORM_CLASS = "apps.onboarding.forms.SignUp"
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "mandatory" if EMAIL_URL else "optional"
ACCOUNT_UNIQUE_EMAIL = True
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "https" if envstr("PORTAL_URL", "").startswith("https") else "http"
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_LOGIN_BY_CODE_ENABLED = False
SIGNUPS_PER_MINUTE = envint("SIGNUPS_PER_MINUTE", 20)  # from one address
ACCOUNT_RATE_LIMITS = {"login_failed": "10/m/ip,5/5m/key", "signup": f"{SIGNUPS_PER_MINUTE}/m/ip", "reset_password": "20/m/ip,5/m/key"}
ALLAUTH_TRUSTED_PROXY_COUNT = envint("TRUSTED_PROXIES", 0)
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_TOTP_ISSUER = "Vivavoce"
MFA_TOTP_TOLERANCE = 1  # a code typed as it changes still counts: one step of transmission delay (RFC 6238, section 5.2)
USERSESSIONS_TRACK_ACTIVITY = True

POSTGRES_PORT = envint("POSTGRES_PORT", 15432)
DATABASE_URL = envsecret("DATABASE_URL") or (
    f"postgresql://vivavoce:{embedded_secret('postgres_password')}@127.0.0.1:{POSTGRES_PORT}/vivavoce"
)


def database(url: str) -> dict:
    """Django's dict for a postgresql:// URL. Raises BadSetting."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
        raise BadSetting("DATABASE_URL: expected postgresql://user:password@host:port/name")
    return {
        "ENGINE": "apps.tenants.backend",
        "NAME": parts.path.strip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "127.0.0.1",
        "PORT": parts.port or 5432,
        "CONN_MAX_AGE": 0,
        # a server process keeps a description of every table it met; of hundreds of workspaces these are hundreds of MB: none lives long
        # reconnect_timeout: the pool doubles the pause between its tries; given up early and begun anew it is back seconds after the server, not minutes
        "OPTIONS": {"pool": {"min_size": 1, "max_size": envint("DATABASE_POOL_SIZE", 16), "timeout": 5, "max_lifetime": 300, "reconnect_timeout": 2}, "connect_timeout": 5},
    }




def mail(url: str) -> dict:
    """Django's EMAIL_ settings for an smtp:// URL; without one mail is printed. Raises BadSetting."""
    if not url:
        return {"EMAIL_BACKEND": "django.core.mail.backends.console.EmailBackend"}
    parts = urlsplit(url)
    if parts.scheme not in ("smtp", "smtps", "smtp+plain") or not parts.hostname:
        raise BadSetting("EMAIL_URL: expected smtp://user:password@host:port (STARTTLS), smtps://… or smtp+plain://… (no TLS: a relay on this machine)")
    return {"EMAIL_HOST": parts.hostname, "EMAIL_PORT": parts.port or 587, "EMAIL_HOST_USER": unquote(parts.username or ""), "EMAIL_TIMEOUT": 10,
            "EMAIL_HOST_PASSWORD": unquote(parts.password or ""), "EMAIL_USE_TLS": parts.scheme == "smtp", "EMAIL_USE_SSL": parts.scheme == "smtps"}  # fmt: skip


globals().update(mail(EMAIL_URL))
DATABASES = {"default": database(DATABASE_URL)}
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]

REDIS_URL = voice.REDIS_URL
CONNECT_REDIS = functools.partial(connect, REDIS_URL)  # a client with these options (config/redis.py)
CONNECT_REDIS_ASYNC = functools.partial(connect_async, REDIS_URL)
COUNTERS_URL = counters_url(REDIS_URL)
CACHES = {
    "default": {
        "BACKEND": "apps.tenants.cache.Cache",
        "LOCATION": REDIS_URL,
        "KEY_FUNCTION": "apps.tenants.cache.make_key",
        "OPTIONS": {"serializer": "apps.tenants.cache.JsonSerializer"},
    }
}
CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": channel_hosts(REDIS_URL), "prefix": "vv"}},
}

MIDDLEWARE = [
    "apps.tenants.middleware.bind_public",
    "apps.tenants.hosts.own_host",
    "apps.common.middleware.probes",
    "apps.common.middleware.request_id",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "allauth.usersessions.middleware.UserSessionsMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "apps.tenants.hosts.only_what_is_there",
    "apps.portal.middleware.impersonation",
    "apps.portal.middleware.renewal",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "apps.common.middleware.errors",
]
ROOT_URLCONF = envstr("VIVAVOCE_URLCONF", "config.urls.portal")  # the gateway process serves its own
if ROOT_URLCONF == "config.urls.gateway":  # keys instead of cookies, and nothing that would take a request to a thread
    MIDDLEWARE = ["apps.tenants.middleware.bind_public", "apps.common.middleware.probes", "apps.common.middleware.request_id",
                  "django.middleware.security.SecurityMiddleware", "allauth.account.middleware.AccountMiddleware",
                  "voice.gateway.rest.errors.middleware"]  # fmt: skip; allauth insists on its own
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [ROOT / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "apps.portal.views.account.issuers",
                "apps.portal.navigation.areas",
            ],
        },
    }
]
UNFOLD = admin.UNFOLD
ASGI_APPLICATION = "config.asgi.portal"
STATIC_URL = "static/"
STATIC_ROOT = VAR / "static"
STATICFILES_DIRS = [ROOT / "static", ("samples", ROOT / "samples")]
WHITENOISE_USE_FINDERS = True
TRUSTED_PROXIES = envint("TRUSTED_PROXIES", 0)  # how many proxies of yours stand before the portal and append to X-Forwarded-For
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"], "style-src": ["'self'", "'unsafe-inline'"], "script-src": ["'self'"], "img-src": ["'self'", "data:"],
        "connect-src": ["'self'", "ws:", "wss:"], "frame-ancestors": ["'none'"], "object-src": ["'none'"], "base-uri": ["'self'"],
    },
    "EXCLUDE_URL_PREFIXES": ["/admin/"],
}  # fmt: skip
SECURE_CONTENT_TYPE_NOSNIFF = True
SESSION_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"

# hosts of agents' HTTPS tools inside your own network, which are refused otherwise: "crm.example.com=10.0.0.5:8443,…"
TOOL_HOSTS_INTERNAL = dict(pair.split("=", 1) for pair in envlist("TOOL_HOSTS_INTERNAL", []) if "=" in pair)
TOOL_CA_FILE = envstr("TOOL_CA_FILE")  # certificates of your own authority, beside the public ones
VOICE = voice  # the voice settings as a module of constants, for voice.gateway
JOB_MESSAGE = "config.workers.message"
VOICE_ENGINES = {
    "stt": (voice.STT_ENGINE, voice.STT_MODEL),
    "llm": (voice.LLM_ENGINE, voice.LLM_MODEL),
    "tts": (voice.TTS_ENGINE, voice.TTS_MODEL),
}
VOICE_FALLBACKS = voice.FALLBACKS
GATEWAY_URL = envstr("GATEWAY_URL", "http://localhost:25000")
GATEWAY_WS_URL = envstr("GATEWAY_WS_URL", "ws://localhost:25000")
PORTAL_URL = envstr("PORTAL_URL", "http://localhost:28000")
ALLOWED_ORIGINS = envlist("ALLOWED_ORIGINS", [])
MAX_SESSION_SECONDS = voice.MAX_SESSION_SECONDS
VOICE_ENGINE_NAMES = {stage: sorted(p.stem for p in (ROOT / "voice" / "engines" / stage).glob("[a-z]*.py")) for stage in ("stt", "llm", "tts")}
ROTATION_GRACE_SECONDS = envint("ROTATION_GRACE_SECONDS", 24 * 3600)  # a rotated key works for so long
# What a tenant may use unless its plan or an operator says otherwise, and what all of them may together; an absent name is no limit.
LIMITS = {
    "requests_per_minute": envint("LIMIT_REQUESTS_PER_MINUTE", 6000), "tokens_per_minute": envint("LIMIT_TOKENS_PER_MINUTE", 1_000_000),
    "concurrent_sessions": envint("LIMIT_CONCURRENT_SESSIONS", 100), "audio_minutes_per_day": envint("LIMIT_AUDIO_MINUTES_PER_DAY", 100_000),
    "events_per_second": envint("LIMIT_EVENTS_PER_SECOND", 2000), "frame_kib": envint("LIMIT_FRAME_KIB", 21 * 1024),
}  # fmt: skip
GLOBAL_LIMITS = {name: value for name in LIMITS if (value := envint(f"GLOBAL_LIMIT_{name.upper()}", 0))}

# Payments: Stripe with a key, else the billing sandbox, a stand-in of ours that talks like Stripe
STRIPE_SECRET_KEY = envsecret("STRIPE_SECRET_KEY")
BILLING_SANDBOX = not STRIPE_SECRET_KEY
BILLING_SANDBOX_PORT = envint("BILLING_SANDBOX_PORT", 12111)
if BILLING_SANDBOX:
    STRIPE_SECRET_KEY = envsecret("BILLING_SANDBOX_SECRET_KEY") or embedded_secret("billing_sandbox_key") or "sk_test_billingsandboxofthisinstallation"
    STRIPE_API_HOST = envstr("STRIPE_API_HOST", f"http://127.0.0.1:{BILLING_SANDBOX_PORT}")
BILLING_SANDBOX_URL = envstr("BILLING_SANDBOX_URL", f"http://localhost:{BILLING_SANDBOX_PORT}")  # as a browser reaches it, for its card page
STRIPE_PUBLIC_KEY = envstr("STRIPE_PUBLIC_KEY", "")  # pk_…, for the card form
STRIPE_LIVE_MODE = STRIPE_SECRET_KEY.startswith(("sk_live_", "rk_live_"))
STRIPE_WEBHOOK_SECRET = envsecret("STRIPE_WEBHOOK_SECRET") or (embedded_secret("stripe_webhook_secret") if BILLING_SANDBOX else "")
STRIPE_TEST_CLOCK = envstr("STRIPE_TEST_CLOCK", "")  # new customers live on this test clock; for tests in Stripe's test mode
STRIPE_AUTOMATIC_TAX = envbool("STRIPE_AUTOMATIC_TAX", False)  # Stripe Tax is set up in the Stripe account
STRIPE_API_VERSION = "2026-08-26.dahlia"
DJSTRIPE_FOREIGN_KEY_TO_FIELD = "id"
DJSTRIPE_WEBHOOK_EVENT_CALLBACK = "apps.billing.stripe.webhook_stored"
DJSTRIPE_SUBSCRIBER_MODEL = "tenants.Tenant"  # baked into the first migration
SILENCED_SYSTEM_CHECKS = ["djstripe.W002"]  # the stand-in's address
DUNNING_GRACE_HOURS = envint("DUNNING_GRACE_HOURS", 48)  # from the last failed retry to the suspension

from config.logs import logging_config  # noqa: E402

LOG_LEVEL = envstr("LOG_LEVEL", "INFO")
LOGGING_CONFIG = None
logging_config(LOG_LEVEL)
TEST_RUNNER = "config.test_runner.PytestRunner"
