"""Requests and responses: parsing, problem documents, headers, the request log, OpenAPI, health."""
