"""flask RESOURCE import: formats, options, errors, and what the rows are."""

import json

import pytest

from tests.conftest import PROJECTS


@pytest.fixture
def flask(app, sql):
    """Run `flask projects import`; return its exit code, standard output and error."""

    def run(*arguments, input=None, command=("projects", "import"), **options):
        result = app.test_cli_runner().invoke(args=[*command, *map(str, arguments)], input=input)
        assert not result.exception or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.stdout.strip(), result.stderr.strip()

    return run


def test_x(flask, sql, tmp_path):
    f = tmp_path / "a.ndjson"
    f.write_text("".join(json.dumps({"name": f"n{i}", "attributes": {"i": i}}) + "\n" for i in range(2500)) + '{"name": ""}\n{"nme": 1}\nxx\n')
    print(flask(f))
    print(flask(f))
    print(flask(f, "--again", "--errors", tmp_path / "e.ndjson"))
    print((tmp_path / "e.ndjson").read_text())
    print(sql("select count(*), count(distinct name) from projects"))
    print(sql("select * from imports"))
    assert 0
