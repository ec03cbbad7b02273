"""The README's tour does what it says."""

import re
import subprocess

import config

TOUR = re.search(r"```sh\n(.*?)```", (config.ROOT / "README.md").read_text(), re.S)


def test_the_tour_answers_as_the_readme_says(server, sql):
    assert TOUR
    script = TOUR[1].replace("localhost:8000", f"127.0.0.1:{server.port}")
    expected = re.findall(r"  # (\d{3})\b", script)
    telling = "curl() { command curl -w '%{stderr}%{http_code}\\n' \"$@\"; }\n"
    done = subprocess.run(
        ["bash", "-euc", telling + script], capture_output=True, text=True, timeout=300
    )
    assert done.stderr.split() == expected
    assert len(expected) == script.count("curl ")
    assert '"l": 2' in done.stdout
    assert sql("SELECT name FROM projects ORDER BY 1") == [("Once",), ("Search",)]
