"""Counters neither fall nor count twice, whatever happens to the processes and their files."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

import config
from projectapp.metrics.slots import Key, SlotFiles
from tests.conftest import PROJECTS
from tests.prometheus import scrape, until_sample
from tests.test_metrics import REQUESTS, SHARED_MEMORY, folder_of
from tests.test_serving import children, end, until, upgrade

pytestmark = pytest.mark.slow

LABELS = {"route": PROJECTS, "method": "GET", "status": "200"}


class Requests:
    """Sends requests to a server, and checks after each of them that all are counted once."""

    def __init__(self, server):
        self.server, self.count = server, 0

    def send(self, number=10):
        for _ in range(number):
            assert self.server.request("GET", PROJECTS)[0] == 200
            self.count += 1
            assert self.counted() == self.count

    def counted(self):
        return scrape(self.server).sum(REQUESTS, **LABELS)


def wait_for_workers(server, master=None, other_than=(), count=2):
    """Wait until a master has this many workers, and none of the others."""
    master = master or server.process.pid
    until(lambda: len(children(master)) == count and not {*children(master)} & {*other_than})
    server.wait_until_serving()


def test_counters_go_on_after_reloads_and_files_do_not_pile_up(serve, sql):
    with serve(METRICS="open") as server:
        requests = Requests(server)
        requests.send()
        for reload in range(1, 6):
            workers = children(server.process.pid)
            server.process.send_signal(signal.SIGHUP)
            until(lambda n=2 * reload + 2: server.log.read_text().count("Worker ready") == n)
            requests.send()  # also by the old workers
            wait_for_workers(server, other_than=workers)
            requests.send()
        assert len([*folder_of(server).iterdir()]) <= 4
        assert scrape(server).sum("projectapp_worker_starts_total") == 12
        until_sample(server, lambda n: n == 2, "projectapp_workers")


def test_with_tmpdir_in_shared_memory_nothing_counts_twice(serve, sql, tmp_path):
    (tmp_path / "link").symlink_to(SHARED_MEMORY)
    for folder in (SHARED_MEMORY, tmp_path / "link"):
        with serve(METRICS="open", TMPDIR=str(folder)) as server:
            Requests(server).send()


def test_counters_go_on_after_kills_and_gauges_of_killed_workers_end(serve, sql):
    with serve(METRICS="open") as server:
        requests = Requests(server)
        requests.send(30)
        for _ in range(3):
            workers = children(server.process.pid)
            until_sample(server, lambda n: n == 2, "projectapp_workers")
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            wait_for_workers(server, other_than=workers)
            requests.send()
        until_sample(server, lambda n: n == 2, "projectapp_workers")
        until_sample(server, lambda n: n == 8, "projectapp_database_connections_max")
        assert len([*folder_of(server).iterdir()]) <= 3


def test_counters_go_on_after_an_upgrade_and_a_reload_of_the_new_master(serve, sql):
    with serve(METRICS="open") as server:
        requests = Requests(server)
        requests.send()
        new_master = upgrade(server.process.pid, server.log)
        try:
            requests.send()  # also by the old workers
            assert server.process.wait(timeout=60) == 0
            requests.send()
            workers = children(new_master)
            os.kill(new_master, signal.SIGHUP)
            wait_for_workers(server, new_master, other_than=workers)
            requests.send()  # in the files of the old master's workers
            assert len([*folder_of(server).iterdir()]) == 4
        finally:
            end(new_master)


def test_folder_of_an_ended_service_is_removed_and_that_of_a_running_one_is_not(serve, sql):
    with serve(METRICS="open") as ended:
        old = folder_of(ended)
    assert old.exists()  # a restart would continue its counters
    with serve(METRICS="open") as running:
        Requests(running).send()
        in_use = folder_of(running)
        os.utime(old, (0, 0))
        os.utime(in_use, (0, 0))
        with serve(METRICS="open"):
            until(lambda: not old.exists())
        assert in_use.exists()
        requests = Requests(running)
        requests.count = 10
        requests.send()


def test_gauges_of_an_ended_process_are_left_out_and_its_counters_stay():
    files = SlotFiles(5, f"test of gauges {os.getpid()}")
    keys = [Key("gauge", "x", ()), Key("counter", "x_total", ())]

    def take(number):
        slot = files.take()
        with slot.lock:
            for key in keys:
                slot.values[slot.position(key, 1)] += number
        return slot

    def read(kind):
        return sorted(values[0] for key, values in files.read() if key.kind == kind)

    first, second = take(1), take(2)
    assert read("gauge") == read("counter") == [1, 2]
    first.close()
    assert (read("gauge"), read("counter")) == ([2], [1, 2])
    third = take(10)  # the slot of the first
    assert (read("gauge"), read("counter")) == ([2, 10], [2, 11])
    second.close()
    third.close()
    for path in SHARED_MEMORY.glob(f"projectapp-metrics-{os.geteuid()}-5-*"):
        os.utime(path, (0, 0))


def test_an_old_folder_is_removed_only_when_no_process_has_a_slot_in_it():
    used, other = (SlotFiles(port, f"test of folders {os.getpid()}") for port in (6, 7))
    slot = used.take()
    [folder] = SHARED_MEMORY.glob(f"projectapp-metrics-{os.geteuid()}-6-*")
    os.utime(folder, (0, 0))
    other.take().close()
    assert folder.exists()
    slot.close()
    other.take().close()
    assert not folder.exists()
    for path in SHARED_MEMORY.glob(f"projectapp-metrics-{os.geteuid()}-7-*"):
        os.utime(path, (0, 0))


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root can make a folder of another user.")
def test_an_old_folder_of_another_user_is_not_removed():
    folder = SHARED_MEMORY / f"projectapp-metrics-{os.geteuid()}-8-of-another-user"
    folder.mkdir()
    try:
        (folder / "0").touch()
        os.chown(folder, 12345, -1)
        os.utime(folder, (0, 0))
        SlotFiles(7, f"test of folders {os.getpid()}").take().close()
        assert [path.name for path in folder.iterdir()] == ["0"]
    finally:
        (folder / "0").unlink()
        folder.rmdir()
    for path in SHARED_MEMORY.glob(f"projectapp-metrics-{os.geteuid()}-7-*"):
        os.utime(path, (0, 0))


# The worker cannot make a file longer: as if the file system were full.
FULL = """
exec(open("gunicorn.conf.py").read())


own_post_fork = post_fork


def post_fork(server, worker):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, ({}, hard))
    own_post_fork(server, worker)
"""


def test_without_room_for_the_files_requests_are_served_and_metrics_get_503(serve, sql, tmp_path):
    (tmp_path / "conf.py").write_text(FULL.format(20_000))
    with serve("-c", str(tmp_path / "conf.py"), METRICS="open", WEB_CONCURRENCY="1") as server:
        for _ in range(10):
            assert server.request("POST", PROJECTS, {"name": "x"})[0] == 201
        status, headers, problem = server.request("GET", "/metrics")
        assert (status, "retry-after" in headers) == (503, True)
        assert problem["detail"] == "The metrics need write access to /dev/shm or TMPDIR."
        log = server.log.read_text()
    assert log.count("There are no metrics.") == 1
    assert "Traceback" not in log


RECORD_MANY = """
import resource
from projectapp.metrics import read_values, use_slots
from projectapp.metrics.recording import Counter

counter = Counter("example_total", "An example.", {"label": None})
use_slots(1, "test of a full file system")
counter.increase("0")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for _ in range(2):
    for number in range(2000):
        counter.increase(str(number))
values = {labels[0]: numbers for (_, labels), numbers in read_values().items() if labels}
print(900 < len(values) < 2000, values["0"], values["900"], {n for (n,) in values.values()})
"""


def test_numbers_without_room_in_the_file_are_dropped_and_all_others_stay_right():
    result = subprocess.run(
        [sys.executable, "-c", RECORD_MANY],
        cwd=config.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "True [3.0] [2.0] {2.0, 3.0}\n"
    assert result.stderr.count("There is no room for more metrics: ") == 1
    for path in SHARED_MEMORY.glob(f"projectapp-metrics-{os.geteuid()}-1-*"):
        os.utime(path, (0, 0))  # the next service removes it


def test_where_shared_memory_cannot_be_used_the_folder_for_temporary_files_is(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = SlotFiles(4, "test of another folder")
    files.take().close()
    [folder] = SHARED_MEMORY.glob(f"projectapp-metrics-{os.geteuid()}-4-*")
    (folder / "0").unlink()
    folder.rmdir()
    folder.touch()  # another user may have made a file with this name
    try:
        slots = [files.take() for _ in range(2)]
        for slot in slots:
            with slot.lock:
                slot.values[slot.position(Key("counter", "x_total", ()), 1)] += 2
        assert [values for _, values in files.read()] == [[2.0], [2.0]]
        assert len([*(tmp_path / folder.name).iterdir()]) == 2
        for slot in slots:
            slot.close()
    finally:
        folder.unlink()


@pytest.mark.parametrize("damage", [b"", b"x", b"\xff" * 4096, b"\0" * 4096, os.urandom(4096)])
def test_a_damaged_file_is_replaced(damage):
    files = SlotFiles(2, "test of a damaged file")
    slot = files.take()
    slot.close()
    [folder] = SHARED_MEMORY.glob(f"projectapp-metrics-{os.geteuid()}-2-*")
    (folder / "0").write_bytes(damage)
    assert [*files.read()] == []
    slot = files.take()
    with slot.lock:
        slot.values[slot.position(Key("counter", "x_total", ()), 1)] += 2
    assert [values for _, values in files.read()] == [[2.0]]
    slot.close()
    (folder / "0").unlink()
    folder.rmdir()


def test_a_forked_process_leaves_the_slot_of_its_parent():
    code = """
import os, time
from projectapp.metrics import read_values, use_slots
from projectapp.metrics.recording import Counter

counter = Counter("example_total", "An example.")
use_slots(3, f"test of a fork {os.getpid()}")
counter.increase()
read_end, write_end = os.pipe()
if os.fork() == 0:
    counter.increase(by=10)
    os.write(write_end, b"x")
    os._exit(0)
os.read(read_end, 1)
counter.increase(by=100)
print(read_values())
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=config.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "('example_total', ()): [111.0]" in result.stdout
    for path in SHARED_MEMORY.glob(f"projectapp-metrics-{os.geteuid()}-3-*"):
        assert len([*path.iterdir()]) == 2
        os.utime(path, (0, 0))
