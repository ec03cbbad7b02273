"""The clients' process: `python -m faults.clients PORT FOLDER SEED WORKERS WEIGHTS`.

Not in the harness's process, so that neither slows nor outlives the other: it says "ready" when its
rows are there, works until its standard input ends, and exits.
"""

import json
import sys
import threading
import time
from pathlib import Path

from faults.client import PROJECTS, Client
from faults.ledger import Ledger
from faults.watchers import probe, walk
from faults.workload import Worker, create_body

LISTS = 4
ALWAYS = 40  # rows that nobody touches
LONGEST = 600.0  # seconds, should the harness forget it


def main(port: int, folder: Path, seed: str, workers: int, weights: dict[str, int]) -> None:
    stop = threading.Event()
    setup = Client(port, Ledger(folder / f"{seed}-setup.jsonl"))
    lists = [_made(setup, f"{seed}-list{n}", tags=[]) for n in range(LISTS)]
    always = {_made(setup, f"{seed}-always{n}") for n in range(ALWAYS)}
    setup.close()

    def client(name: str, ledger: Ledger | None = None) -> Client:
        return Client(port, ledger or Ledger(folder / f"{name}.jsonl"))

    jobs = []
    for name in (f"{seed}-{n}" for n in range(workers)):
        first = client(name)
        worker = Worker(first, client(name, first.ledger), name, lists, stop)
        jobs.append(threading.Thread(target=worker.run, args=(weights,)))
    walker, prober = f"{seed}-walk", f"{seed}-probe"
    jobs += [
        threading.Thread(target=walk, args=(client(walker), walker, always, stop)),
        threading.Thread(target=probe, args=(client(prober), prober, stop)),
    ]
    print("ready", flush=True)
    for job in jobs:
        job.start()
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()
    stop.wait(LONGEST)
    stop.set()
    for job in jobs:
        job.join()


def _made(client: Client, name: str, **attributes: object) -> str:
    """The id of a new row; tried with one key until it is there, at most half a minute."""
    body = create_body(name) | ({"attributes": attributes} if attributes else {})
    for _ in range(60):
        made = client.send("create", name, "POST", PROJECTS, body, key=name)
        if made.outcome == "ok" and made.id:
            return made.id
        time.sleep(0.5)
    raise SystemExit(f"{name} cannot be created")


def _watch(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


if __name__ == "__main__":
    main(
        int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5])
    )
