"""django-tenants' PostgreSQL backend with one change: the schema comes from the bound tenant, on every cursor."""

from __future__ import annotations

from django_tenants.postgresql_backend.base import DatabaseWrapper as TenantsWrapper
from django_tenants.postgresql_backend.base import FakeTenant

from apps.tenants.context import MIGRATING, NoTenantBound, bound_or_none


class DatabaseWrapper(TenantsWrapper):
    def _cursor(self, name=None):
        found = bound_or_none()
        if found is None:
            raise NoTenantBound("a query with no tenant bound; wrap it in `with bound(tenant):` or `with bound_public():`")
        if found is not MIGRATING and (self.schema_name != found.schema or not self.include_public_schema):
            self.tenant, self.schema_name, self.include_public_schema = FakeTenant(found.schema), found.schema, True
        return super()._cursor(name) if name else super()._cursor()
