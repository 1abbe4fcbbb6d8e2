from __future__ import annotations

from datetime import timedelta

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.apikeys.models import ApiKey
from apps.apikeys.services import DEFAULT_SCOPES, SCOPES, api_key_issue, api_key_revoke, operator_key_issue
from apps.common.actors import SYSTEM
from apps.common.errors import VivavoceError
from apps.tenants.context import bound_public
from apps.tenants.models import Tenant


class Command(BaseCommand):
    help = "API keys: `apikey create TENANT [--name N] [--scope S …] [--days D]`, `apikey operator [--name N]`, `apikey revoke KEY_ID_OR_PREFIX`."

    def add_arguments(self, parser):
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create")
        create.add_argument("tenant", help="slug or id")
        create.add_argument("--name", default="command line")
        create.add_argument("--scope", action="append", choices=SCOPES)
        create.add_argument("--days", type=int)
        operator = actions.add_parser("operator", help="a key for /api/v1/admin")
        operator.add_argument("--name", default="command line")
        revoke = actions.add_parser("revoke")
        revoke.add_argument("key", help="key_… id, or the eight characters after vv_")

    def handle(self, *args, **options):
        with bound_public():
            getattr(self, options["action"])(options)

    def create(self, options):
        wanted = options["tenant"]
        tenant = Tenant.objects.real().filter(slug=wanted).first() or Tenant.objects.real().filter(pk=wanted).first()
        if tenant is None:
            raise CommandError(f"no tenant {wanted!r}; `manage.py tenant list` shows them")
        expires = timezone.now() + timedelta(days=options["days"]) if options["days"] else None
        scopes = tuple(options["scope"] or DEFAULT_SCOPES)
        key, secret = api_key_issue(tenant=tenant, name=options["name"], scopes=scopes, expires_at=expires, actor=SYSTEM)
        self.stdout.write(f"{key.id}\n{secret}")
        self.stderr.write("Write it down: it is not shown again.")

    def operator(self, options):
        key, secret = operator_key_issue(name=options["name"], actor=SYSTEM)
        self.stdout.write(f"{key.id}\n{secret}")
        self.stderr.write("Write it down: it is not shown again.")

    def revoke(self, options):
        wanted = options["key"]
        key = ApiKey.objects.filter(pk=wanted).first() or ApiKey.objects.filter(prefix=wanted.removeprefix("vv_")[:8]).first()
        if key is None:
            raise CommandError(f"no key {wanted!r}")
        try:
            api_key_revoke(key=key, actor=SYSTEM)
        except VivavoceError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{key.id} revoked")
