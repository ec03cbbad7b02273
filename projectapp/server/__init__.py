"""The gunicorn worker: its threads wait for clients and run the requests.

worker.py               the class that gunicorn calls: start, serve, stop
request_threads.py      the threads, the queue of requests if all threads are busy, load shedding
client_connections.py   what each connection waits for, and which thread owns it
streams.py              connections that stay open without a thread, such as event streams
held_connections.py     these connections, and their output
client_buffer.py        a client's socket with its buffers
plain_requests.py       usual requests, without gunicorn's parser and response
gunicorn_requests.py    all other requests, with gunicorn's parser and response
request_framing.py      where such a request ends
unparsed_responses.py   errors that the worker itself answers, as problem documents
"""
