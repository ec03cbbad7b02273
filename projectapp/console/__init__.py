"""The console: a web page to search, edit, compare, restore and watch the rows of all resources.

The page is a client of the API like any other. `views` serves the page and its files, `resources`
tells the page what to show of each resource, `session` signs in and out, and `cli` has the command
`flask console`.
"""

from projectapp.console import session  # noqa: F401 - it adds its routes to the blueprint
from projectapp.console.views import bp

__all__ = ["bp"]
