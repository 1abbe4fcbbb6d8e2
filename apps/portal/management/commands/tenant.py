from __future__ import annotations

from django.core.management.base import BaseCommand, CommandError

from apps.apikeys.services import api_key_issue
from apps.common.actors import SYSTEM
from apps.common.errors import VivavoceError
from apps.onboarding.services import workspace_create
from apps.tenants.context import bound_public
from apps.tenants.models import Tenant


class Command(BaseCommand):
    help = "Tenants: `tenant create NAME [--slug S] [--email E] [--key]`, `tenant list`."

    def add_arguments(self, parser):
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create")
        create.add_argument("name")
        create.add_argument("--slug")
        create.add_argument("--email", default="")
        create.add_argument("--key", action="store_true", help="also make an API key and print it")
        actions.add_parser("list")

    def handle(self, *args, **options):
        with bound_public():
            if options["action"] == "list":
                for tenant in Tenant.objects.real():
                    self.stdout.write(f"{tenant.id}  {tenant.slug:24} {tenant.status:10} {tenant.name}")
                return
            try:
                tenant = workspace_create(name=options["name"], slug=options["slug"], email=options["email"])
            except VivavoceError as error:
                raise CommandError(error.message) from error
            self.stdout.write(f"{tenant.id}  {tenant.slug}")
            if options["key"]:
                self.stdout.write(api_key_issue(tenant=tenant, name="first", actor=SYSTEM)[1])
