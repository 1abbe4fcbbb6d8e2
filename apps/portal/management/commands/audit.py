from __future__ import annotations

import json
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError

from apps.audit.models import AuditEntry
from apps.audit.services import audit_heads, audit_verify
from apps.tenants.context import PUBLIC_SCHEMA, bound, bound_public
from apps.tenants.models import Tenant


class Command(BaseCommand):
    help = ("The audit log: `audit verify [TENANT …] [--heads FILE]` walks the hash chains of the operators and of the workspaces (all of them, or those "
            "named), and looks whether they go on from what an earlier `audit heads > FILE` said.")

    def add_arguments(self, parser):
        actions = parser.add_subparsers(dest="action", required=True)
        verify = actions.add_parser("verify")
        verify.add_argument("tenants", nargs="*", help="slugs")
        verify.add_argument("--heads", type=Path, help="written by `audit heads`, kept where nobody can change it with the database")
        actions.add_parser("heads", help="the last line of each chain, as JSON")

    def handle(self, *args, **options):
        with bound_public():
            if options["action"] == "heads":
                return self.stdout.write(json.dumps(audit_heads(), indent=1))
            known = json.loads(options["heads"].read_text()) if options["heads"] else {}
            tenants = [t for t in Tenant.objects.real() if not options["tenants"] or t.slug in options["tenants"]]
            broken = 0
            if not options["tenants"]:
                broken += self._say("operators", *audit_verify(known.get(PUBLIC_SCHEMA)))
                broken += self._erased(audit_heads())
        for tenant in tenants:
            with bound(tenant):
                broken += self._say(tenant.slug, *audit_verify(known.get(tenant.schema_name)))
        if broken:
            raise CommandError(f"{broken} chains are broken")

    def _erased(self, heads: dict) -> int:
        """The chain went with its schema; its head is in the operators' line and must not have moved since."""
        broken = 0
        for line in AuditEntry.objects.filter(action="tenant.erased", after__has_key="audit"):
            tenant = Tenant.objects.filter(pk=line.target).first()
            said, kept = line.after["audit"], heads.get(tenant.schema_name) if tenant else None
            if kept != [said["lines"], said["digest"]]:
                broken += self._say(f"{tenant.slug if tenant else line.target} (erased)", said["lines"], "its head is not the one it was erased with")
        return broken

    def _say(self, name: str, lines: int, problem: str) -> int:
        self.stdout.write(f"{name:30} {lines:8} lines  {problem or 'whole'}")
        return bool(problem)
