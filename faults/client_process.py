"""The clients' process: `python -m faults.client_process PLAN`, with main's arguments as JSON.

It is not the scenario's process, so that neither slows down or outlives the other. It prints
"ready" when its rows exist, works until its standard input ends, and exits.
"""

import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from faults.bulk_writers import BulkWriter
from faults.client import Caller, Client
from faults.exporters import export_repeatedly
from faults.feed_readers import READERS, FeedReader, poll
from faults.ledger import Ledger
from faults.readers import probe, walk
from faults.resource import load_resource

PERMANENT_ROWS = 40  # rows that no client changes
LONGEST_SECONDS = 600.0  # the process ends after this in any case


def main(
    resource: str,
    port: int,
    folder: str,
    name: str,
    seed: int,
    writers: int,
    weights: Mapping[str, int],
    shared_rows: int,
    exporters: int,
    callers: Sequence[tuple[str | None, Sequence[str], str | None]],
) -> None:
    """Run all clients. The names of their operations begin with `name`; `seed` selects them.

    Each caller has `shared_rows` rows to which its clients append. The writers work for the callers
    in turn, and so do the readers of the feed and the exporters; the walker works for the first
    caller.
    """
    stop, ledgers, own_resource = threading.Event(), Path(folder), load_resource(resource)
    all_callers = [Caller(*values) for values in callers]

    def make_client(name: str, caller: Caller, ledger: Ledger | None = None) -> Client:
        return Client(port, ledger or Ledger(ledgers / f"{name}.jsonl"), own_resource, caller)

    shared_ids, permanent_ids, has_feed = [], set(), False
    for number, caller in enumerate(all_callers):
        client = make_client(f"{name}-setup{number}", caller)
        numbers = range(number * shared_rows, (number + 1) * shared_rows)
        tags = own_resource.tags_body([])
        shared_ids.append([_create_row(client, f"{name}-shared{n}", tags) for n in numbers])
        if number == 0:
            names = [f"{name}-permanent{n}" for n in range(PERMANENT_ROWS)]
            permanent_ids = {_create_row(client, row_name) for row_name in names}
            # The previous release in a rehearsal has no feed, and its rows may have no history.
            feed_path = f"{own_resource.path}/changes"
            has_feed = client.send("feed", name, "GET", feed_path).status == 200
        client.close()
    threads = []
    for n in range(writers):
        own_name, number = f"{name}-{n}", n % len(all_callers)
        first = make_client(own_name, all_callers[number])
        second = make_client(own_name, all_callers[number], first.ledger)
        foreign = [i for ids in shared_ids if ids is not shared_ids[number] for i in ids]
        writer = BulkWriter((first, second), own_name, shared_ids[number], foreign, stop, seed)
        threads.append(threading.Thread(target=writer.run, args=(weights,)))
    walker = make_client(f"{name}-walk", all_callers[0])
    prober = make_client(f"{name}-probe", Caller(parent_id=all_callers[0].parent_id))
    threads += [
        threading.Thread(target=walk, args=(walker, f"{name}-walk", permanent_ids, stop)),
        threading.Thread(target=probe, args=(prober, f"{name}-probe", stop)),
    ]
    for n in range(exporters):
        own_name = f"{name}-export{n}"
        client = make_client(own_name, all_callers[n % len(all_callers)])
        arguments = (client, own_name, ledgers, stop)
        threads.append(threading.Thread(target=export_repeatedly, args=arguments))
    feed_clients = []
    for n, read in enumerate(READERS):
        own_name = f"{name}-{read.__name__}"
        feed_clients.append(make_client(own_name, all_callers[n % len(all_callers)]))
        reader = FeedReader(feed_clients[-1], ledgers / f"{own_name}.feed", stop)
        threads.append(threading.Thread(target=reader.run, args=(read, has_feed and read is poll)))
    print("ready", flush=True)
    for thread in threads:
        thread.start()
    threading.Thread(target=_wait_for_end_of_input, args=(stop,), daemon=True).start()
    stop.wait(LONGEST_SECONDS)
    stop.set()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.05)
            for client in feed_clients:
                client.interrupt_stream()  # which would not end


def _create_row(client: Client, name: str, fields: Mapping[str, object] | None = None) -> str:
    """Create a row and return its id; retry with the same key for at most half a minute."""
    body = client.resource.create_body(name) | (fields or {})
    for _ in range(60):
        attempt = client.send("create", name, "POST", client.create_path, body, key=name)
        if attempt.outcome == "ok" and attempt.id:
            return attempt.id
        time.sleep(0.5)
    raise SystemExit(f"{name} cannot be created: {attempt.status} {client.body}")


def _wait_for_end_of_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
