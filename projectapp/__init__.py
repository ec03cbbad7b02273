"""A JSON API for projects on PostgreSQL."""

import click
from flask import Flask

from config import ROOT, Config, load_config
from projectapp import auth, console, database, projects, rate_limit
from projectapp.http import (
    cors,
    endpoint,
    health,
    openapi,
    problem_documents,
    prometheus,
    request_log,
    request_spans,
    security_headers,
    trusted_proxies,
)
from projectapp.http.application import Application

__version__ = "0.7.0"


def create_app(config: Config | None = None) -> Flask:
    """Create the application, by default with the configuration that APP_ENV selects.

    Raises ConfigError, which is a SystemExit, if a setting is missing or invalid.
    """
    config = config or load_config()
    # Only the documentation page needs the files in static/.
    app = Application(__name__, static_folder="static" if config.DOCS else None)
    app.config.from_object(config)
    app.config["VERSION"] = __version__
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # a redirect would break a browser's preflight

    # before_request hooks run in this order, after_request hooks in the reverse order. So the log
    # comes first: it measures the time of all hooks, and logs the final status.
    request_log.init_app(app)
    request_spans.init_app(app)
    trusted_proxies.init_app(app)
    security_headers.init_app(app)
    cors.init_app(app)
    problem_documents.init_app(app)
    database.init_app(app)
    rate_limit.init_app(app)

    # The documentation shows the endpoints in this order.
    app.register_blueprint(projects.bp)
    if config.CONSOLE:
        app.register_blueprint(console.bp)
    app.register_blueprint(health.bp)
    prometheus.init_app(app)
    if config.DOCS:
        app.register_blueprint(openapi.bp)
    endpoint.require_endpoint_declarations(app)
    auth.init_app(app)  # last, because it reads the scopes of all endpoints
    if click.get_current_context(silent=True):
        add_commands(app)
    return app


def add_commands(app: Flask) -> None:
    """Add the commands that no blueprint has. A server never loads them: Alembic takes 8 MiB."""
    from flask_migrate import Migrate

    from projectapp.auth.cli import tokens_cli
    from projectapp.bulk import imports, pulled_rows  # noqa: F401 - the tables of commands
    from projectapp.console.cli import console_command
    from projectapp.doctor.command import doctor_command
    from projectapp.resources.cli import history_cli, idempotency_cli

    Migrate(app, database.db, directory=str(ROOT / "migrations"))
    for command in (console_command, doctor_command, history_cli, idempotency_cli, tokens_cli):
        app.cli.add_command(command)
