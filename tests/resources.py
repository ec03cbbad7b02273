"""The resources of the application, for the tests that every resource must pass."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ResourceCase:
    """How tests use a resource: fields for a title, a text and a boolean state.

    `parent` is the path of the resource that its rows belong to.
    """

    name: str
    title: str
    text: str
    state: str
    parent: str | None = None

    @property
    def path(self) -> str:
        return f"/api/v1/{self.name}"

    @property
    def scopes(self) -> str:
        """The scopes to read and write its rows, and to create a parent for them."""
        names = [self.name, *([self.parent.rpartition("/")[2]] if self.parent else [])]
        return ",".join(f"{name}:{action}" for name in names for action in ("read", "write"))

    def collection(self, client: Any, headers: dict[str, str] | None = None) -> str:
        """Return the path where the caller creates rows; for children, that of a new parent."""
        if not self.parent:
            return self.path
        response = client.post(self.parent, json={"name": "A parent"}, headers=headers)
        assert response.status_code == 201, response.text
        return f"{self.parent}/{response.json['id']}/{self.name}"


CASES = [
    ResourceCase("projects", title="name", text="description", state="is_active"),
]
