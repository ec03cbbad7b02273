"""Projects: what a team is working on.

A project has a name and, if somebody wrote one, a description. It is active until it is archived.
Whatever else a team wants to say of it is in its attributes, a free-form JSON object. Each change
that changes something raises its version by one. Id, version and times are the service's to make,
and so is the owner: the caller who made it.
"""

from projectapp.projects import cli
from projectapp.projects.routes import bp

__all__ = ["bp", "cli"]
