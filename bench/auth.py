"""Compare AUTH=none and AUTH=tokens in interleaved rounds of wrk on two servers; see README.md."""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg2
from workers import FILL, FLASK, ROOT, migrate, request_rate, start_gunicorn, stop

sys.path.insert(0, str(ROOT))

from projectapp.devdb import DevPostgres

ROUNDS = 25
PORTS = {"none": 21010, "tokens": 21011}  # by the value of AUTH
CREATE = ["tokens", "create", "--name=bench", "--owner=bench", "--scope=projects:read"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        environ = migrate(server, AUTH="tokens")
        token = subprocess.check_output([*FLASK, *CREATE], cwd=ROOT, env=environ, text=True)
        connection = psycopg2.connect(**server.parameters)
        with connection, connection.cursor() as cursor:
            cursor.execute(FILL)
            cursor.execute("UPDATE projects SET owner = 'bench'")
            cursor.execute("SELECT id FROM projects LIMIT 1")
            (project_id,) = cursor.fetchone() or ("",)
        connection.autocommit = True
        connection.cursor().execute("VACUUM ANALYZE projects")
        connection.close()
        header = f"Authorization: Bearer {token.strip()}"
        services = [
            start_gunicorn({**environ, "AUTH": auth, "PORT": str(port)})
            for auth, port in PORTS.items()
        ]
        try:
            paths = {
                "one": f"/api/v1/projects/{project_id}",
                "ten": "/api/v1/projects",
                "a search": "/api/v1/projects?q=project%2077",
            }
            for name, path in paths.items():
                compare(name, path, header)
        finally:
            for gunicorn in services:
                stop(gunicorn)
            server.release()


def compare(name: str, path: str, header: str) -> None:
    rounds = [
        {
            auth: request_rate(f"http://127.0.0.1:{port}{path}", header, 1)
            for auth, port in sorted(PORTS.items(), reverse=bool(n % 2))
        }
        for n in range(ROUNDS)
    ]
    ratios = sorted(rates["tokens"] / rates["none"] for rates in rounds)
    medians = {auth: statistics.median(rates[auth] for rates in rounds) for auth in PORTS}
    low, median, high = ratios[ROUNDS // 4], ratios[ROUNDS // 2], ratios[-ROUNDS // 4]
    print(
        f"{name}: none {medians['none']:.0f}/s, tokens {medians['tokens']:.0f}/s,"
        f" ratio {median:.2f} (half of the rounds: {low:.2f}..{high:.2f})"
    )


if __name__ == "__main__":
    main()
