"""What config.py needs to read the settings: parsers, `.env`, and the check of HOST and PORT.

gunicorn's master process imports config and this package, but not projectapp: after a reload it
would still have the old modules. So neither of the two may import projectapp.
"""
