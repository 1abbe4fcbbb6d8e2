from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models
from django.db.models.functions import Lower

from apps.common.ids import issuer_id, user_id
from apps.tenants.models import Tenant


class UserManager(BaseUserManager):
    def create_user(self, email: str, password: str | None = None, **fields) -> User:
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save()
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields) -> User:
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, email: str) -> User:
        return self.get(email__iexact=email)


class User(AbstractBaseUser, PermissionsMixin):
    """A person; lives in the public schema and joins tenants by memberships."""

    id = models.CharField(primary_key=True, max_length=40, default=user_id, editable=False)
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=120, blank=True)
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: list[str] = []
    objects = UserManager()

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="user_email_once")]

    def __str__(self) -> str:
        return self.email


class Secret:
    """Something of others we must be able to say again, encrypted with a key derived from SECRET_KEY."""

    @staticmethod
    def _box() -> Fernet:
        return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"vivavoce.secret" + settings.SECRET_KEY.encode()).digest()))

    @classmethod
    def seal(cls, text: str) -> str:
        return cls._box().encrypt(text.encode()).decode() if text else ""

    @classmethod
    def open(cls, sealed: str) -> str:
        """ "" when there is none, or SECRET_KEY is another one now."""
        try:
            return cls._box().decrypt(sealed.encode()).decode() if sealed else ""
        except InvalidToken:
            return ""


class Issuer(models.Model):
    """An OpenID provider, of the platform (no tenant) or a tenant's own. Public schema."""

    id = models.CharField(primary_key=True, max_length=40, default=issuer_id, editable=False)
    tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.CASCADE, related_name="issuers")
    name = models.CharField(max_length=80)
    issuer = models.CharField(max_length=300)  # as in `iss`
    endpoints = models.JSONField(default=dict)  # authorization, token, userinfo, jwks, end_session, users; offline: a bool
    client_id = models.CharField(max_length=200)
    client_secret = models.TextField(blank=True)  # sealed
    roles = models.JSONField(default=dict, blank=True)  # value of the claim -> role; platform: "/<slug>/<role>" needs no entry
    claim = models.CharField(max_length=80, default="groups")
    default_role = models.CharField(max_length=16, blank=True)  # of those no value names; "" = no access
    active = models.BooleanField(default=True)
    trust_minutes = models.PositiveIntegerField(default=0)  # after a provider last vouched for one it cannot be asked about
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["issuer", "client_id"], name="one_client_per_issuer")]

    def __str__(self) -> str:
        return self.name

    @property
    def checked_by(self) -> str:
        """How we learn that an account was switched off there: see apps/teams/liveness.py."""
        return "look-up" if "users" in self.endpoints else "offline token" if self.endpoints.get("offline") else "session"


class Identity(models.Model):
    """A user as a provider knows them: matched by (issuer, sub), never by e-mail alone. Public schema."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="identities")
    issuer = models.ForeignKey(Issuer, on_delete=models.CASCADE, related_name="identities")
    sub = models.CharField(max_length=255)
    refresh_token = models.TextField(blank=True)  # sealed; asked now and then whether the account still lives
    created_at = models.DateTimeField(auto_now_add=True)
    checked_at = models.DateTimeField(auto_now_add=True)  # when the provider last vouched for them
    looked_up = models.BooleanField(default=False)  # found in the provider's list of accounts by `sub`
    unvouched_at = models.DateTimeField(null=True, blank=True)  # since then nobody vouches: their keys rest
    ended_at = models.DateTimeField(null=True, blank=True)  # the provider said that the account is off

    class Meta:
        constraints = [models.UniqueConstraint(fields=["issuer", "sub"], name="one_identity_per_sub")]

    def __str__(self) -> str:
        return f"{self.sub} at {self.issuer}"
