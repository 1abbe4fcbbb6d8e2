"""The audit log cannot be changed, and a change behind the database's back is found."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.utils import IntegrityError

from apps.audit.models import AuditEntry
from apps.audit.services import audit_record, audit_verify, safe_cell
from apps.common.actors import SYSTEM, Origin, coming_from
from apps.onboarding.services import workspace_create
from apps.tenants.context import bound, bound_public


@pytest.fixture
def tenant(database):
    with bound_public():
        made = workspace_create(name="Audit", slug=f"audit-{time.time_ns() % 10**10}")
    with bound(made):
        yield made


def test_the_database_refuses_to_change_delete_or_empty_it(tenant):
    audit_record(actor=SYSTEM, action="test.done", target="x")
    for act in (lambda: AuditEntry.objects.update(action="other"), lambda: AuditEntry.objects.all().delete(), lambda: connection.cursor().execute("TRUNCATE audit_auditentry")):
        with pytest.raises(IntegrityError):
            act()


def test_twenty_at_once_make_one_chain(tenant):
    def write(n: int) -> None:
        with bound(tenant), coming_from(Origin("10.0.0.1", f"r{n}")):
            audit_record(actor=SYSTEM, action="test.raced", target=str(n), before={"n": n}, after={"text": "ü"})
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(20)))
    lines, problem = audit_verify()
    assert lines >= 20 and problem == ""
    assert AuditEntry.objects.filter(ip="10.0.0.1", request_id="r7").exists()


@pytest.mark.parametrize("change", ["UPDATE audit_auditentry SET actor = 'somebody' WHERE seq = 3", "DELETE FROM audit_auditentry WHERE seq = 3"])
def test_a_change_behind_its_back_is_found(tenant, change, capsys):
    for n in range(5):
        audit_record(actor=SYSTEM, action="test.done", target=str(n))
    with connection.cursor() as cursor:  # as a superuser of the database might
        cursor.execute("ALTER TABLE audit_auditentry DISABLE TRIGGER append_only")
        cursor.execute(change)
        cursor.execute("ALTER TABLE audit_auditentry ENABLE TRIGGER append_only")
    lines, problem = audit_verify()
    assert lines == 3 and "3" in problem
    with pytest.raises(CommandError):
        call_command("audit", "verify", tenant.slug)
    assert "3" in capsys.readouterr().out


def test_cells_are_no_formulas():
    assert [safe_cell(v)[0] for v in ("=1", "+1", "-1", "@x", "\tx", "a", {"a": 1})] == ["'", "'", "'", "'", "'", "a", "{"]
