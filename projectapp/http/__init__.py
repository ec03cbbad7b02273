"""Requests and responses. In the order of one request:

- trusted_proxies   (WSGI middleware) sets the client's address and scheme behind a proxy
- request_log       gives the request an id and a deadline
- cors              answers the preflight requests of browsers for unknown paths
- endpoint          authorizes the caller, then has request_data parse and validate the query and
                    the body (with the field types of fields), and calls the view
- etags             for the view: the versions in If-Match and If-None-Match, and 304 responses
- problem_documents turns an exception into a problem document
- cors, security_headers, request_log   add their headers; request_log writes the log line

`headers` lists the headers of the API, `log_lines` formats log lines. `health` and `openapi` have
routes.
"""
