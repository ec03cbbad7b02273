"""The application: `gunicorn wsgi:app`, and `flask` finds it without --app."""

from projectapp import create_app, doctor

app = doctor.create_or_explain(create_app)
