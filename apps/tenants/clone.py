"""A new schema like the template, read from the catalogue of that one schema.

django-tenants' own clone_schema reads views of information_schema that walk every table of the database: measured 1.6 s with ten
workspaces and 6.5 s with a hundred. This costs the same however many there are.
"""

from __future__ import annotations

from django.db import connection
from django_tenants.clone import CloneSchema

# What it cannot copy: anything but plain tables with their indexes and identity columns
OTHERS = """
SELECT count(*) FROM pg_class c WHERE c.relnamespace = %(old)s::regnamespace AND (c.relkind NOT IN ('r', 'i', 'S')
    OR c.relkind = 'S' AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'i'))
UNION ALL SELECT count(*) FROM pg_proc WHERE pronamespace = %(old)s::regnamespace
UNION ALL SELECT count(*) FROM pg_type WHERE typnamespace = %(old)s::regnamespace AND typtype NOT IN ('c', 'b')
"""
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = %(old)s::regnamespace AND relkind = 'r' ORDER BY relname"
# Keys and unique constraints before the foreign keys that need them; checks and NOT NULL come with the table
CONSTRAINTS = """
SELECT c.relname, k.conname, pg_get_constraintdef(k.oid) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE k.connamespace = %(old)s::regnamespace AND k.contype IN ('p', 'u', 'x', 'f') ORDER BY k.contype = 'f', k.oid
"""
INDEXES = """
SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = %(old)s::regnamespace AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
ORDER BY i.indexrelid
"""
TRIGGERS = """
SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = %(old)s::regnamespace AND NOT t.tgisinternal ORDER BY t.oid
"""


def schema_clone(template: str, schema: str) -> None:
    """Make `schema` with the tables, constraints, indexes and triggers of `template`, under the same names, without rows.

    In the caller's transaction, with the public schema alone in the search path (so that the template's names come qualified).
    """
    quote, old = connection.ops.quote_name, {"old": template}
    with connection.cursor() as cursor:
        cursor.execute(OTHERS, old)
        if any(count for (count,) in cursor.fetchall()):
            return CloneSchema().clone_schema(template, schema, "NODATA")

        def rows(query: str) -> list[tuple]:
            cursor.execute(query, old)
            return cursor.fetchall()

        def moved(definition: str) -> str:
            for word in (" ON ", " REFERENCES "):
                definition = definition.replace(f"{word}{template}.", f"{word}{quote(schema)}.")
            return definition

        made = [f"CREATE SCHEMA {quote(schema)}"]
        made += [f"CREATE TABLE {quote(schema)}.{quote(t)} (LIKE {quote(template)}.{quote(t)} INCLUDING ALL EXCLUDING INDEXES)" for (t,) in rows(TABLES)]
        made += [f"ALTER TABLE {quote(schema)}.{quote(t)} ADD CONSTRAINT {quote(name)} {moved(text)}" for t, name, text in rows(CONSTRAINTS)]
        made += [moved(text) for (text,) in [*rows(INDEXES), *rows(TRIGGERS)]]
        cursor.execute(";\n".join(made))
