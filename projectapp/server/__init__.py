"""The gunicorn worker: its event loop waits for clients, and its threads run the requests.

worker.py               the class that gunicorn calls: start, serve, stop
client_connections.py   receives requests, sends responses, closes connections
request_queue.py        gives complete requests to threads, and sheds load
client_buffer.py        stands in for a client's socket: what was received, what is to be sent
request_framing.py      where a request ends
utf8_request.py         raw UTF-8 in the target of a request
unparsed_responses.py   errors that the worker itself answers, as problem documents
"""
