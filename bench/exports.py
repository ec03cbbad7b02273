"""Measure exports over HTTP and by the command, compared with COPY; see README.md."""

import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg2
from workers import FLASK, ROOT, migrate, start_gunicorn, stop

sys.path.insert(0, str(ROOT))

from projectapp.devdb import DevPostgres

ROWS, LARGE_ROWS, ROUNDS, PORT = 200_000, 5_000, 5, 21040
FILL = """
INSERT INTO projects (id, name, description, attributes, created_at)
SELECT gen_random_uuid(), 'project ' || n, 'what the team is working on, number ' || n,
  jsonb_build_object('team', 'core', 'tags', jsonb_build_array('web', n)),
  now() - interval '1 day' + n * interval '1 millisecond'
FROM generate_series(1, {}) AS n
"""
# The newest rows, so that the pages of an export must become smaller.
FILL_LARGE = """
INSERT INTO projects (id, name, attributes)
SELECT gen_random_uuid(), 'large ' || n, jsonb_build_object('text', repeat('x', 16000))
FROM generate_series(1, {}) AS n
"""
TIME = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
# The expression of an export, in the same order.
COPY = f"""
COPY (SELECT json_build_object('id', id, 'name', name, 'description', description,
  'is_active', is_active, 'attributes', attributes, 'version', version,
  'created_at', {TIME.format("created_at")}, 'updated_at', {TIME.format("updated_at")},
  'owner', owner)::text FROM projects ORDER BY created_at, id) TO STDOUT
"""  # noqa: S608


def read_http(file_format: str) -> None:
    """Read an export to its last chunk, in a process of its own as a client is."""
    program = (
        "import socket\n"
        f"connection = socket.create_connection(('127.0.0.1', {PORT}))\n"
        f"connection.sendall(b'GET /api/v1/projects/export?format={file_format} HTTP/1.1\\r\\n'\n"
        "    b'Host: x\\r\\n\\r\\n')\n"
        "buffer, size, end = bytearray(2**18), 0, b''\n"
        "while read := connection.recv_into(buffer):\n"
        "    end, size = bytes(buffer[max(0, read - 5) : read]), size + read\n"
        "assert end.endswith(b'0\\r\\n\\r\\n') and size > 10**7, size\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def run_command(environ: dict[str, str], folder: str, file_format: str) -> float:
    """Return the rows a second that the command reports: its start is left out."""
    command = [*FLASK, "projects", "export", f"{folder}/export.{file_format}"]
    output = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    return float(re.findall(r", (\d+) rows/s\.", output.stderr)[0])


def copy(parameters: dict[str, str]) -> None:
    with (
        psycopg2.connect(**parameters) as connection,
        connection.cursor() as cursor,
        Path(os.devnull).open("wb") as file,
    ):
        cursor.copy_expert(COPY, file)


def peak_kib(pid: int, *, reset: bool = False) -> int:
    if reset:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    name = "VmRSS" if reset else "VmHWM"
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(rf"{name}:\s+(\d+) kB", status)[0])


def measure_rates(measurements: dict[str, Callable[[], float | None]]) -> None:
    rates: dict[str, list[float]] = {name: [] for name in measurements}
    for number in range(ROUNDS):
        for name in sorted(measurements, reverse=bool(number % 2)):
            started = time.monotonic()
            rate = measurements[name]()
            rates[name].append(rate or ROWS / (time.monotonic() - started))
    reference = rates["COPY"]
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(values, reference, strict=True))
        median = statistics.median(values)
        print(f"{name}: {median:.0f} rows/s ({min(values):.0f}..{max(values):.0f}), {ratio:.2f}")


def measure_memory(worker: int, label: str) -> None:
    """Measure the first exports of a worker, which also compile the statements."""
    for file_format in ("ndjson", "csv"):
        before = peak_kib(worker, reset=True)
        read_http(file_format)
        more_mib = (peak_kib(worker) - before) / 1024
        print(f"{label}, {file_format}: {more_mib:.1f} MiB more in the worker")


def measure_silent_clients(worker: int) -> None:
    """Open 200 exports whose clients read nothing."""
    before = peak_kib(worker, reset=True)
    clients = []
    for _ in range(200):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", PORT))
        client.sendall(b"GET /api/v1/projects/export HTTP/1.1\r\nHost: x\r\n\r\n")
        clients.append(client)
        time.sleep(0.02)
    time.sleep(3)
    more_mib = (peak_kib(worker) - before) / 1024
    print(f"200 clients that read nothing: {more_mib:.1f} MiB more in the worker")
    for client in clients:
        client.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        environ = {**migrate(server), "WEB_CONCURRENCY": "1", "PORT": str(PORT), "AUTH": "none"}
        connection = psycopg2.connect(**server.parameters)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(FILL.format(ROWS))
            cursor.execute("VACUUM ANALYZE projects")
        gunicorn = start_gunicorn(environ)
        try:
            children = Path(f"/proc/{gunicorn.pid}/task/{gunicorn.pid}/children").read_text()
            worker = int(children.split()[0])
            measure_memory(worker, f"{ROWS} rows")
            measure_rates(
                {
                    "COPY": lambda: copy(server.parameters),
                    "HTTP, ndjson": lambda: read_http("ndjson"),
                    "HTTP, csv": lambda: read_http("csv"),
                    "command, ndjson": lambda: run_command(environ, folder, "ndjson"),
                    "command, csv": lambda: run_command(environ, folder, "csv"),
                }
            )
            with connection.cursor() as cursor:
                cursor.execute(FILL_LARGE.format(LARGE_ROWS))
            measure_memory(worker, f"{LARGE_ROWS} rows of 16 KiB more")
            measure_silent_clients(worker)
        finally:
            stop(gunicorn)
            connection.close()
            server.release()


if __name__ == "__main__":
    main()
