"""The gunicorn worker, what a thread of it reads and writes, and where a request ends."""
