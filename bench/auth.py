"""What does it cost to know who calls? Interleaved rounds of wrk on two servers; see README.md."""

import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg2
from workers import FILL, FLASK, ROOT, migrated, rate, serve

sys.path.insert(0, str(ROOT))

from projectapp.devdb import DevPostgres

ROUNDS = 25
PORTS = {"none": 21010, "tokens": 21011}
CREATE = ["tokens", "create", "--name=bench", "--owner=bench", "--scope=projects:read"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        environ = migrated(server, AUTH="tokens")
        token = subprocess.check_output([*FLASK, *CREATE], cwd=ROOT, env=environ, text=True)
        connection = psycopg2.connect(**server.parameters)
        with connection, connection.cursor() as cursor:
            cursor.execute(FILL)
            cursor.execute("UPDATE projects SET owner = 'bench'")
            cursor.execute("SELECT id FROM projects LIMIT 1")
            (one,) = cursor.fetchone() or ("",)
        connection.autocommit = True
        connection.cursor().execute("VACUUM ANALYZE projects")
        connection.close()
        header = f"Authorization: Bearer {token.strip()}"
        running = [
            serve({**environ, "AUTH": auth, "PORT": str(port)}) for auth, port in PORTS.items()
        ]
        try:
            paths = {
                "one": f"/api/v1/projects/{one}",
                "ten": "/api/v1/projects",
                "a search": "/api/v1/projects?q=project%2077",
            }
            for name, path in paths.items():
                rounds = [
                    {
                        auth: rate(f"http://127.0.0.1:{port}{path}", header, 1)
                        for auth, port in sorted(PORTS.items(), reverse=bool(n % 2))
                    }
                    for n in range(ROUNDS)
                ]
                ratios = sorted(found["tokens"] / found["none"] for found in rounds)
                rates = {auth: statistics.median(found[auth] for found in rounds) for auth in PORTS}
                low, middle, high = ratios[ROUNDS // 4], ratios[ROUNDS // 2], ratios[-ROUNDS // 4]
                print(
                    f"{name}: none {rates['none']:.0f}/s, tokens {rates['tokens']:.0f}/s,"
                    f" ratio {middle:.2f} (half of the rounds: {low:.2f}..{high:.2f})"
                )
        finally:
            for gunicorn in running:
                gunicorn.send_signal(signal.SIGTERM)
                gunicorn.wait()
            server.release()


if __name__ == "__main__":
    main()
