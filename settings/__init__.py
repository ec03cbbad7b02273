"""What config.py needs to read the settings: parsers, `.env`, and the check of HOST and PORT.

Other modules import from config. Neither config nor this package imports projectapp: gunicorn's
master process imports both, and a reload would not renew what the master has imported.
"""
