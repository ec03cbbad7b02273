"""The clients' process: `python -m faults.clients PLAN`, the plan being main's arguments as JSON.

Not in the harness's process, so that neither slows nor outlives the other: it says "ready" when its
rows are there, works until its standard input ends, and exits.
"""

import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from faults.client import NOBODY, PROJECTS, Caller, Client
from faults.ledger import Ledger
from faults.watchers import probe, walk
from faults.workload import Worker, create_body

ALWAYS = 40  # rows that nobody touches
LONGEST = 600.0  # seconds, should the harness forget it


def main(
    port: int,
    folder: str,
    name: str,
    seed: int,
    workers: int,
    weights: Mapping[str, int],
    lists: int,
    callers: Sequence[tuple[str | None, Sequence[str]]],
) -> None:
    """`name` begins the name of every operation; `seed` decides what they are.

    Each of the `callers` has so many `lists`, the clients are the callers in turn, and the walker
    is the first of them.
    """
    stop, home = threading.Event(), Path(folder)
    known = [Caller(*given) for given in callers]

    def client(name: str, caller: Caller, ledger: Ledger | None = None) -> Client:
        return Client(port, ledger or Ledger(home / f"{name}.jsonl"), caller)

    shared = []
    for number, caller in enumerate(known):
        setup = client(f"{name}-setup{number}", caller)
        names = (f"{name}-list{n}" for n in range(number * lists, (number + 1) * lists))
        shared.append([_made(setup, own, tags=[]) for own in names])
        if number == 0:
            always = {_made(setup, f"{name}-always{n}") for n in range(ALWAYS)}
        setup.close()
    jobs = []
    for n in range(workers):
        own, number = f"{name}-{n}", n % len(known)
        first = client(own, known[number])
        pair = first, client(own, known[number], first.ledger)
        foreign = [row for rows in shared if rows is not shared[number] for row in rows]
        worker = Worker(pair, own, shared[number], foreign, stop, seed)
        jobs.append(threading.Thread(target=worker.run, args=(weights,)))
    walker, prober = f"{name}-walk", f"{name}-probe"
    jobs += [
        threading.Thread(target=walk, args=(client(walker, known[0]), walker, always, stop)),
        threading.Thread(target=probe, args=(client(prober, NOBODY), prober, stop)),
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
    main(**json.loads(sys.argv[1]))
