"""Many rows at once, of any resource: bulk requests, import, export, and taking over a backend."""
