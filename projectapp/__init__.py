"""A JSON API for projects on PostgreSQL."""

from flask import Flask

import config as settings
from projectapp import (
    auth,
    cli,
    cors,
    database,
    doctor,
    errors,
    headers,
    health,
    limits,
    logs,
    openapi,
    operation,
    projects,
    proxies,
)

__version__ = "0.2.0"


def create_app(config: settings.Config | None = None) -> Flask:
    """Make the application from `config`, by default the one that the environment asks for.

    Raises ConfigError, a SystemExit, when a setting is missing or wrong.
    """
    config = config or settings.load()
    # All there is in static/ is what the docs page needs.
    app = Flask(__name__, static_folder="static" if config.DOCS else None)
    app.config.from_object(config)
    app.config["VERSION"] = __version__
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # a redirect would break a browser's preflight

    cli.init_app(app)
    doctor.init_app(app)
    logs.init_app(app)
    proxies.init_app(app)
    headers.init_app(app)
    cors.init_app(app)
    errors.init_app(app)
    database.init_app(app)
    auth.init_app(app)
    limits.init_app(app)

    # In the order of the documentation.
    app.register_blueprint(projects.bp)
    app.register_blueprint(health.bp)
    if config.DOCS:
        app.register_blueprint(openapi.bp)
    operation.check_routes(app)
    return app
