"""Imports that are killed, lose answers of the database, or run twice at once."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import config
from faults.pg_proxy import Harm
from tests.conftest import with_long_timeouts

BATCH = "UPDATE imports SET processed_items"
FINISH = "UPDATE imports SET finished_at"
ITEM_COUNT, SOME_REJECTED = 6500, 3
# One item of each kind in each batch: rejected by the schema, by the database, by the parser.
LARGE = "b" * 16400


def line(number):
    attributes = {"a": LARGE} if number % 1000 == 500 else {"number": number}
    if number % 1000 == 300:
        return "nonsense"
    return json.dumps({"name": "" if number % 250 == 7 else f"{number}", "attributes": attributes})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("import") / "a.ndjson"
    path.write_text("\n".join(map(line, range(ITEM_COUNT))))
    return path


@pytest.fixture
def command(path, database_url):
    """Return a function that starts `flask projects import` as a process."""
    settings = config.Config.declared_settings()
    environ = {name: value for name, value in os.environ.items() if name not in settings}

    def start(errors, url=database_url, file=path, options=()):
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "flask", "projects", "import", file),
                *("--errors", errors, *options),
            ],
            cwd=config.ROOT,
            env={**environ, "APP_ENV": "testing", "DATABASE_URL": url, **with_long_timeouts({})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture(scope="module")
def reference():
    """A list for the result of `expected`, which is the same for all tests."""
    return []


@pytest.fixture
def expected(app, sql, path, reference):
    """The names, the errors file and the counters of an import that nothing interrupts."""
    if not reference:
        errors = path.with_name("expected.ndjson")
        arguments = ["projects", "import", str(path), "--errors", str(errors)]
        assert app.test_cli_runner().invoke(args=arguments).exit_code == SOME_REJECTED
        reference.append(read_result(sql, errors))
        sql("DELETE FROM projects; DELETE FROM imports; DELETE FROM changes")
    (result,) = reference
    assert len(result[0]) == ITEM_COUNT - 39
    return result


def read_result(sql, errors):
    names = sorted(name for (name,) in sql("SELECT name FROM projects"))
    columns = "processed_items, created_rows, rejected_items, errors_bytes, errors_crc32"
    return (
        names,
        errors.read_text(),
        sql(f"SELECT {columns}, finished_at IS NOT NULL FROM imports"),  # noqa: S608
    )


@pytest.mark.slow
def test_import_killed_at_each_batch_continues_with_the_same_result(
    command, proxy, sql, expected, tmp_path
):
    """Killed before each commit, after each commit, and before and after the end is recorded."""
    errors = tmp_path / "errors.ndjson"
    harms = [(fault, text) for text in [BATCH] * 8 + [FINISH] for fault in ("drop", "lose")]
    for fault, text in harms:
        process = command(errors, proxy.url)
        proxy.before_reset = process.kill
        getattr(proxy, fault).append(text)
        process.communicate(timeout=60)
        if process.returncode != -signal.SIGKILL:
            break
    else:
        process = command(errors)
        process.communicate(timeout=60)
    assert proxy.lose == proxy.drop == [] or (fault, text) != harms[-1]
    assert read_result(sql, errors) == expected
    assert process.returncode in (0, SOME_REJECTED)


@pytest.mark.slow
def test_import_killed_at_random_moments_continues_with_the_same_result(
    command, sql, expected, tmp_path
):
    errors, generator = tmp_path / "errors.ndjson", random.Random(1)  # noqa: S311
    kills = 0
    while True:
        process = command(errors)
        output = threading.Timer(generator.uniform(0.5, 2.5) if kills < 15 else 60, process.kill)
        output.start()
        process.communicate(timeout=90)
        output.cancel()
        if process.returncode != -signal.SIGKILL:
            break
        kills += 1
    assert process.returncode in (0, SOME_REJECTED)
    assert read_result(sql, errors) == expected


@pytest.fixture
def proxied_app(make_app, proxy):
    app = make_app(DATABASE_URL=proxy.url)
    yield app
    with app.app_context():
        app.extensions["sqlalchemy"].engine.dispose()


@pytest.fixture
def run(proxied_app, path):
    """Run the command through the proxy; return its exit status and its output."""

    def run_import(errors, *options):
        arguments = ["projects", "import", str(path), "--errors", str(errors), *options]
        result = proxied_app.test_cli_runner().invoke(args=arguments)
        assert not result.exception or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.stdout, result.stderr

    return run_import


@pytest.mark.parametrize("is_pooler", [False, True], ids=["direct", "pooler"])
@pytest.mark.parametrize("harm", [Harm.LOSE_ANSWER, Harm.DROP_QUERY])
def test_lost_answers_of_the_database_have_no_effect(
    run, proxy, sql, expected, tmp_path, harm, is_pooler
):
    """Each statement that writes is harmed when it is sent for the first time."""
    sent = set()

    def harm_once(query):
        if "imports" not in query or query in sent:
            return None
        sent.add(query)
        return harm

    proxy.pooler, proxy.choose_harm = is_pooler, harm_once
    errors = tmp_path / "errors.ndjson"
    assert run(errors)[0] == SOME_REJECTED
    # The start, the end, and each of 7 batches: once with the item that the database refuses.
    assert proxy.harmed[harm] >= 15
    assert read_result(sql, errors) == expected


@pytest.mark.slow
def test_import_continues_after_the_database_was_away(
    run, proxied_app, proxy, sql, expected, tmp_path
):
    proxied_app.config["DATABASE_STATEMENT_TIMEOUT"] = 1  # how long a lost answer is looked for
    errors = tmp_path / "errors.ndjson"
    proxy.drop.extend([BATCH])
    proxy.before_reset = lambda: setattr(proxy, "refuses", True)
    status, _, err = run(errors)
    assert status == 1
    assert err.splitlines()[-1].startswith("Error: ")
    assert err.endswith("Run the same command again: it continues.\n")
    proxy.refuses, proxy.before_reset = False, lambda: None
    assert run(errors)[0] == SOME_REJECTED
    assert read_result(sql, errors) == expected


@pytest.mark.parametrize("same_errors_file", [False, True])
def test_two_processes_that_import_the_same_file_create_each_row_once(
    command, sql, expected, tmp_path, same_errors_file
):
    """Each rejected item is in the errors file of one of them."""
    names = ["errors.ndjson"] * 2 if same_errors_file else ["1.ndjson", "2.ndjson"]
    paths = [tmp_path / name for name in names]
    processes = [command(path) for path in paths]
    with ThreadPoolExecutor() as threads:
        outputs = [*threads.map(lambda process: process.communicate(timeout=60)[0], processes)]
    statuses = sorted(process.returncode for process in processes)
    if statuses == [1, SOME_REJECTED]:
        assert f"Error: Another import writes to {paths[0]}.\n" in outputs
    else:
        # If the first process was ready before the second one began, that one has nothing to do.
        assert statuses in ([SOME_REJECTED] * 2, [0, SOME_REJECTED]), outputs
    rows, errors, counters = expected
    assert sorted(name for (name,) in sql("SELECT name FROM projects")) == rows
    texts = [path.read_text() for path in {*paths} if path.exists()]
    lines = "".join(texts).splitlines()
    assert sorted(lines, key=error_line) == errors.splitlines()
    assert sql("SELECT processed_items, created_rows, rejected_items FROM imports") == [
        counters[0][:3]
    ]


def error_line(text):
    return json.loads(text)["error_line"]


@pytest.fixture
def interrupted(command, proxy, sql, expected, tmp_path):
    """The errors file of an import that was killed between the commits of two batches."""
    errors = tmp_path / "errors.ndjson"
    batches = iter(range(4))

    def drop_fourth_batch(query, choose_harm=proxy.choose_harm):
        if BATCH in query and next(batches, None) == 3:
            proxy.drop.append(BATCH)
        return choose_harm(query)

    proxy.choose_harm = drop_fourth_batch
    process = command(errors, proxy.url)
    proxy.before_reset = process.kill
    process.communicate(timeout=60)
    del proxy.choose_harm
    assert sql("SELECT processed_items BETWEEN 1 AND 5000 FROM imports") == [(True,)]
    return errors


def test_changed_errors_file_is_not_overwritten_and_another_one_has_the_rest(
    run, sql, expected, interrupted, tmp_path
):
    text = interrupted.read_text()
    committed = sql("SELECT errors_bytes FROM imports")[0][0]
    interrupted.write_text(text.replace('"name"', '"mane"'))
    status, _, err = run(interrupted)
    assert status == 1
    assert f"{interrupted} is not what the interrupted import wrote, or it was changed." in err
    assert interrupted.read_text() == text.replace('"name"', '"mane"')
    rest = tmp_path / "rest.ndjson"
    assert run(rest)[0] == SOME_REJECTED
    names, errors, _ = read_result(sql, rest)
    assert names == expected[0]
    assert text.encode()[:committed].decode() + errors == expected[1]


def test_missing_errors_file_gets_the_rest(run, sql, expected, interrupted):
    committed = sql("SELECT errors_bytes FROM imports")[0][0]
    interrupted.unlink()
    status, _, err = run(interrupted)
    assert status == SOME_REJECTED
    assert "has only the items that are rejected from now on." in err
    assert interrupted.read_text() == expected[1].encode()[committed:].decode()


def test_import_that_continues_without_an_errors_file_leaves_the_record_of_the_file(
    app, path, sql, interrupted
):
    """Otherwise the next one with this file would cut off what the file has."""
    record = sql("SELECT errors_bytes, errors_crc32 FROM imports")
    assert record[0][0] > 0
    result = app.test_cli_runner().invoke(args=["projects", "import", str(path)])
    assert result.exit_code == SOME_REJECTED
    assert sql("SELECT errors_bytes, errors_crc32 FROM imports") == record


def test_unfinished_import_continues_also_with_again(run, sql, expected, interrupted):
    assert run(interrupted, "--again")[0] == SOME_REJECTED
    assert read_result(sql, interrupted) == expected


def test_import_whose_record_is_deleted_stops(run, proxy, sql, path, tmp_path):
    proxy.before_reset = lambda: sql("DELETE FROM imports")
    proxy.drop.append(BATCH)
    status, _, err = run(tmp_path / "errors.ndjson")
    assert status == 1
    assert "The record of this import was deleted or reset while it was running." in err
    assert sql("SELECT count(*) FROM projects") == [(0,)]


def test_import_that_another_process_has_begun_again_is_not_finished(run, proxy, sql, tmp_path):
    def begin_again(query, choose_harm=proxy.choose_harm):
        if FINISH in query:
            sql("UPDATE imports SET processed_items = 0")
        return choose_harm(query)

    proxy.choose_harm = begin_again
    assert run(tmp_path / "errors.ndjson")[0] == SOME_REJECTED
    assert sql("SELECT processed_items, finished_at FROM imports") == [(0, None)]
