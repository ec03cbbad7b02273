"""The program of docs/history.md keeps an exact copy."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

import config
from tests.conftest import PROJECTS, all_items
from tests.feed_load import writers_running

PROGRAM = re.search(r"```python\n(.*?)```", (config.ROOT / "docs/history.md").read_text(), re.S)[1]


@contextmanager
def copying(server, folder):
    """Run the program, and kill it at the end of the block."""
    url = f"http://127.0.0.1:{server.port}{PROJECTS}"
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=folder,
            env={**os.environ, "PROJECTS_URL": url},
            stderr=log,
        )
    try:
        yield process
        assert process.poll() is None, (folder / "log").read_text()
    finally:
        process.kill()
        process.wait()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_the_copy_is_exact_after_kills_restarts_and_a_purge(
    serve, client, sql, direct_url, tmp_path
):
    file = tmp_path / "copy.json"

    def copy():
        return json.loads(file.read_text()) if file.exists() else {"projects": None, "cursor": None}

    rows = "SELECT gen_random_uuid(), 'old' FROM generate_series(1, 250)"
    sql(f"INSERT INTO projects (id, name) {rows}")
    sql("DELETE FROM changes")  # as if they had been made before the history began
    with serve() as server:
        with writers_running(direct_url, "copy", count=4):
            for action in ("kill", "restart", "purge", "kill"):
                before = copy()["cursor"]
                with copying(server, tmp_path):
                    wait_for(lambda before=before: copy()["cursor"] != before)
                    if action == "restart":
                        server.process.send_signal(signal.SIGHUP)
                        server.wait_until_serving()
                        before = copy()["cursor"]
                        wait_for(lambda before=before: copy()["cursor"] != before)
                if action == "purge":
                    cursor, last = copy()["cursor"], sql("SELECT max(seq) FROM changes")[0][0]
                    wait_for(
                        lambda last=last: sql("SELECT max(seq) FROM changes")[0][0] > last + 20
                    )
                    sql(
                        "WITH purged AS (DELETE FROM changes RETURNING seq, xid)"
                        " UPDATE histories SET purged_seq = (SELECT max(seq) FROM purged),"
                        " purged_xid = (SELECT xid FROM purged ORDER BY xid DESC LIMIT 1)"
                    )
                    assert client.get(f"{PROJECTS}/changes?since={cursor}").status_code == 410
        projects = {project["id"]: project for project in all_items(client, "?page_size=100")}
        assert len(projects) > 250
        with copying(server, tmp_path):
            wait_for(lambda: copy()["projects"] == projects)
            time.sleep(1)
            assert copy()["projects"] == projects
