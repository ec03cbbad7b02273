"""The application: `gunicorn wsgi:app` serves it, and the `flask` command finds it here."""

from projectapp import create_app
from settings.config_error import ConfigError

try:
    app = create_app()
except ConfigError as error:
    # Raises the error again, except for `flask doctor`, which explains it.
    from projectapp.doctor.command import create_doctor_app

    app = create_doctor_app(error)
