"""The audit log cannot be changed, and a change behind the database's back is found."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.utils import IntegrityError

from apps.audit.models import AuditEntry
from apps.audit.services import audit_heads, audit_record, audit_verify, safe_cell
from apps.common.actors import SYSTEM, Origin, coming_from
from apps.onboarding.services import workspace_create
from apps.tenants.context import bound, bound_public
from apps.tenants.services import tenant_close, tenant_erase


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


def as_superuser(*statements: str) -> None:
    """As a superuser of the database might, past the triggers."""
    with connection.cursor() as cursor:
        for statement in ("SET session_replication_role = replica", *statements, "SET session_replication_role = origin"):
            cursor.execute(statement)


def test_last_lines_that_were_cut_off_are_missed_also_after_more_were_written(tenant):
    for n in range(5):
        audit_record(actor=SYSTEM, action="test.done", target=str(n))
    count = AuditEntry.objects.count()
    as_superuser(f"DELETE FROM audit_auditentry WHERE seq > {count - 2}")
    assert audit_verify() == (count - 2, "the last 2 lines are missing")
    audit_record(actor=SYSTEM, action="test.done", target="after")  # goes on where the chain ended, not where it ends now
    assert "is missing" in audit_verify()[1]
    with pytest.raises(IntegrityError):
        connection.cursor().execute("DELETE FROM public.vivavoce_audit_heads WHERE chain = current_schema()")
    as_superuser("DELETE FROM audit_auditentry WHERE seq > 1", "DELETE FROM public.vivavoce_audit_heads WHERE chain = current_schema()")
    assert audit_verify()[1] == "the head of the chain is missing"


def test_a_chain_written_anew_with_its_head_is_seen_by_what_was_written_down(tenant, tmp_path, capsys):
    for n in range(3):
        audit_record(actor=SYSTEM, action="test.done", target=str(n))
    call_command("audit", "heads")
    (tmp_path / "heads.json").write_text(capsys.readouterr().out)
    call_command("audit", "verify", tenant.slug, heads=tmp_path / "heads.json")
    as_superuser("DELETE FROM audit_auditentry", "DELETE FROM public.vivavoce_audit_heads WHERE chain = current_schema()")
    for n in range(9):
        audit_record(actor=SYSTEM, action="test.forged", target=str(n))
    assert audit_verify()[1] == ""  # whole in itself
    with pytest.raises(CommandError):
        call_command("audit", "verify", tenant.slug, heads=tmp_path / "heads.json")
    assert "written anew" in capsys.readouterr().out


def test_the_end_of_an_erased_workspaces_chain_is_in_the_operators_log(tenant, capsys):
    audit_record(actor=SYSTEM, action="test.done", target="x")
    with bound_public():
        tenant_close(tenant=tenant, actor=SYSTEM)
        with bound(tenant):
            lines, digest = AuditEntry.objects.values_list("seq", "digest").first()
        tenant_erase(tenant=tenant, actor=SYSTEM)
        assert AuditEntry.objects.get(action="tenant.erased", target=tenant.id).after["audit"] == {"lines": lines, "digest": digest}
        assert audit_heads()[tenant.schema_name] == [lines, digest]
        as_superuser(f"UPDATE public.vivavoce_audit_heads SET seq = seq + 1 WHERE chain = '{tenant.schema_name}'")
        with pytest.raises(CommandError):
            call_command("audit", "verify")
        assert f"{tenant.slug} (erased)" in capsys.readouterr().out
        as_superuser(f"UPDATE public.vivavoce_audit_heads SET seq = seq - 1 WHERE chain = '{tenant.schema_name}'")


def test_cells_are_no_formulas():
    assert [safe_cell(v)[0] for v in ("=1", "+1", "-1", "@x", "\tx", "a", {"a": 1})] == ["'", "'", "'", "'", "'", "a", "{"]
