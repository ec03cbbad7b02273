"""The application: `gunicorn wsgi:app`, and `flask` finds it without --app."""

from config import ConfigError
from projectapp import create_app

try:
    app = create_app()
except ConfigError as error:
    from projectapp.doctor.command import create_doctor_app

    app = create_doctor_app(error)
