"""Requests and responses. In the order of one request:

- trusted_proxies   (WSGI middleware) sets the client's address and scheme behind a proxy
- request_log       gives the request an id and a deadline
- cors              answers a browser's preflight request for an unknown path
- endpoint          authorizes the caller, and calls the view with the query and the body, which
                    request_data parses and validates (fields has the types of their fields)
- etags             reads If-Match and If-None-Match for the view, and makes 304 responses
- problem_documents turns an exception into a problem document
- cors, security_headers and request_log add their headers; request_log writes the log line

`application` is the Flask that runs these steps. `headers` lists the headers of the API, and
`log_lines` formats log lines. `health`, `prometheus` and `openapi` have routes.
"""
