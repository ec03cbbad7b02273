"""Tasks: what there is to do in a project.

A task belongs to a project, and to the project's owner. It is deleted with its project.
"""

from projectapp.tasks.routes import bp

__all__ = ["bp"]
