from __future__ import annotations

from django.core.management.base import BaseCommand, CommandError

from apps.audit.services import audit_verify
from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant


class Command(BaseCommand):
    help = "The audit log: `audit verify [TENANT …]` walks the hash chains of the operators and of the workspaces (all of them, or those named)."

    def add_arguments(self, parser):
        actions = parser.add_subparsers(dest="action", required=True)
        verify = actions.add_parser("verify")
        verify.add_argument("tenants", nargs="*", help="slugs")

    def handle(self, *args, **options):
        broken = 0
        with bound_public():
            tenants = [t for t in Tenant.objects.real() if not options["tenants"] or t.slug in options["tenants"]]
            if not options["tenants"]:
                broken += self._say("operators", *audit_verify())
        for tenant in tenants:
            with bound(tenant):
                broken += self._say(tenant.slug, *audit_verify())
        if broken:
            raise CommandError(f"{broken} chains are broken")

    def _say(self, name: str, lines: int, problem: str) -> int:
        self.stdout.write(f"{name:30} {lines:8} lines  {problem or 'whole'}")
        return bool(problem)
