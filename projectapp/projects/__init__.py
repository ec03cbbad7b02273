"""Projects: what a team is working on.

A project has a name and an optional description. It is active until it is archived. Other data goes
into `attributes`, a free-form JSON object. Every change raises the version by one. The service sets
the id, the version, the times and the owner, which is the caller who created the project.
"""

from projectapp.projects.routes import bp

__all__ = ["bp"]
