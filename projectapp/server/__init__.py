"""The gunicorn worker: its event loop waits for clients, and its threads run the requests.

No module here imports Flask itself.

worker.py               the class that gunicorn calls: start, serve, stop
client_connections.py   receives requests, sends responses, closes connections
request_queue.py        gives complete requests to threads, and sheds load
client_buffer.py        what is received from a client, and what is to be sent to it
request_framing.py      where a request ends
utf8_request.py         raw UTF-8 in the target of a request
unparsed_responses.py   problem documents for requests that do not reach the application
"""
