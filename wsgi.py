"""The application: `gunicorn wsgi:app`, and `flask` finds it without --app."""

from projectapp import create_app

app = create_app()
