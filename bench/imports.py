"""Measure `flask projects import` against COPY into the same table, and its memory; see README.md.

python bench/imports.py [--rows 100000] [--rounds 3] [--memory-rows 100000,1000000]
"""

import argparse
import csv
import io
import json
import re
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
from workers import FLASK, ROOT, migrate

from projectapp.devdb import DevPostgres

FORMATS = ("csv", "ndjson", "json")
# The triggers refuse TRUNCATE.
EMPTY = """
SET session_replication_role = replica; TRUNCATE projects, changes, imports;
RESET session_replication_role
"""
COPY = "COPY projects (id, name, description, is_active, attributes) FROM STDIN (FORMAT csv)"


def items(row_count: int) -> Iterator[dict[str, Any]]:
    for number in range(row_count):
        yield {
            "name": f"번역 project {number}",
            "description": f"Every page of part {number % 977} in Korean and English",
            "is_active": number % 10 > 0,
            "attributes": {"team": f"team {number % 50}", "budget": number * 100},
        }


def write_file(path: Path, row_count: int) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.writer(file)
            writer.writerow(["name", "description", "is_active", "attributes"])
            for item in items(row_count):
                attributes = json.dumps(item["attributes"])
                flag = "true" if item["is_active"] else "false"
                writer.writerow([item["name"], item["description"], flag, attributes])
        else:
            is_array = path.suffix == ".json"
            file.write("[\n" if is_array else "")
            for number, item in enumerate(items(row_count)):
                comma = ",\n" if is_array and number else ""
                file.write(comma + json.dumps(item, ensure_ascii=False))
                file.write("" if is_array else "\n")
            file.write("\n]\n" if is_array else "")
    return path


def run_import(path: Path, environ: dict[str, str]) -> tuple[float, float]:
    """Import a file; return the seconds, with the start of the command, and the peak RSS in MiB."""
    started = time.monotonic()
    process = subprocess.Popen(
        [*FLASK, "projects", "import", path],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    peak_kib = 0
    while process.poll() is None:
        # Not wait4's ru_maxrss: until the exec, the child has the memory of this process.
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak_kib = max(peak_kib, *map(int, re.findall(r"VmHWM:\s+(\d+)", status)), 0)
        time.sleep(0.02)
    seconds = time.monotonic() - started
    output = process.communicate()[0].decode()
    if process.returncode:
        raise RuntimeError(output)
    return seconds, peak_kib / 1024


def run_copy(connection: psycopg2.extensions.connection, row_count: int) -> float:
    """COPY the same rows from memory in one transaction; return the seconds."""
    text = io.StringIO()
    writer = csv.writer(text)
    for item in items(row_count):
        writer.writerow([uuid.uuid4(), *[*item.values()][:3], json.dumps(item["attributes"])])
    text.seek(0)
    started = time.monotonic()
    with connection.cursor() as cursor:
        cursor.copy_expert(COPY, text)
    return time.monotonic() - started


def measure_rates(
    folder: Path, connection: Any, environ: dict[str, str], row_count: int, rounds: int
) -> None:
    paths = {name: write_file(folder / f"rates.{name}", row_count) for name in FORMATS}
    ratios: dict[str, list[float]] = {name: [] for name in FORMATS}
    rates: dict[str, list[float]] = {name: [] for name in ("COPY", *FORMATS)}
    for _ in range(rounds):
        empty(connection)
        copy_seconds = run_copy(connection, row_count)
        rates["COPY"].append(row_count / copy_seconds)
        for name, path in paths.items():
            empty(connection)
            seconds, _mebibytes = run_import(path, environ)
            rates[name].append(row_count / seconds)
            ratios[name].append(copy_seconds / seconds)
    print(f"{row_count} rows, medians of {rounds} rounds:")
    print(f"COPY: {statistics.median(rates['COPY']):.0f} rows/s")
    for name in FORMATS:
        print(
            f"import of .{name}: {statistics.median(rates[name]):.0f} rows/s,"
            f" {statistics.median(ratios[name]):.2f} of COPY"
            f" ({min(ratios[name]):.2f} to {max(ratios[name]):.2f})",
            flush=True,
        )


def measure_memory(
    folder: Path, connection: Any, environ: dict[str, str], row_counts: list[int]
) -> None:
    for name in FORMATS:
        base = 0.0
        for row_count in (1, *row_counts):
            path = write_file(folder / f"memory.{name}", row_count)
            empty(connection)
            seconds, mebibytes = run_import(path, environ)
            base = base or mebibytes
            print(
                f"{row_count} rows of .{name}: peak {mebibytes:.1f} MiB, {mebibytes - base:+.1f} to"
                f" a file with one row; {row_count / seconds:.0f} rows/s",
                flush=True,
            )


def empty(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(EMPTY)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-rows", default="100000,1000000")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder) / "postgres")
        server.start()
        environ = migrate(server)
        connection = psycopg2.connect(**server.parameters)
        connection.autocommit = True
        try:
            if options.rounds:
                measure_rates(Path(folder), connection, environ, options.rows, options.rounds)
            row_counts = [int(text) for text in options.memory_rows.split(",") if text]
            if row_counts:
                measure_memory(Path(folder), connection, environ, row_counts)
        finally:
            connection.close()
            server.release()


if __name__ == "__main__":
    main()
