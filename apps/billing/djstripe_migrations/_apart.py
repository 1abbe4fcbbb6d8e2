"""dj-stripe's 60 models cost 10 s of every migration that renders them beside ours; nothing of ours refers to them, so they are kept apart."""

from __future__ import annotations

from django.db import migrations, router

from apps.tenants.context import MIGRATING, bound_or_none


class Apart(migrations.Migration):
    """Makes its tables from its own final state, all at once, and leaves no trace in the state that the other migrations see.

    `makemigrations` does see them (it binds no migration run). A later migration of dj-stripe's is a subclass too, with `later = True`:
    it is applied the common way, upon a state of its own.
    """

    later = False

    def mutate_state(self, project_state, preserve=True):
        return project_state if bound_or_none() is MIGRATING else super().mutate_state(project_state, preserve)

    def apply(self, project_state, schema_editor, collect_sql=False):
        from django.db.migrations.loader import MigrationLoader

        if not router.allow_migrate(schema_editor.connection.alias, self.app_label):
            return project_state
        before = [(self.app_label, name) for app, name in self.dependencies if app == self.app_label] or self.dependencies
        graph = MigrationLoader(None, ignore_no_migrations=True).graph
        own = graph.make_state(before, at_end=True, real_apps=project_state.real_apps)
        for name in (n for app, n in graph.forwards_plan(before[-1]) if app == self.app_label):  # skipped above
            for operation in graph.nodes[self.app_label, name].operations:
                operation.state_forwards(self.app_label, own)
        if self.later:
            super().apply(own, schema_editor, collect_sql)
            return project_state
        for operation in self.operations:
            operation.state_forwards(self.app_label, own)
        for model in own.apps.get_app_config(self.app_label).get_models():
            if model._meta.can_migrate(schema_editor.connection):
                schema_editor.create_model(model)
        return project_state
