"""The commands of the tours in both READMEs, run in bash and, if it is installed, in zsh."""

import re
import shutil
import subprocess

import pytest

import config

READMES = ("README.md", "README.ko.md")


def tour_of(readme):
    """The commands of a tour, and the status codes that its text promises."""
    text = (config.ROOT / readme).read_text()
    section = re.search(r"^## (A tour|둘러보기)\n(.*?)^## ", text, re.M | re.S)[2]
    prose = re.sub(r"```sh\n.*?```", "", section, flags=re.S)
    return "".join(re.findall(r"```sh\n(.*?)```", section, re.S)), re.findall(r"`(\d{3})`", prose)


@pytest.mark.parametrize("readme", READMES)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tour_prints_the_promised_status_codes(server, sql, shell, readme):
    program = shutil.which(shell) or pytest.skip(f"there is no {shell}")
    script, promised = tour_of(readme)
    script = script.replace("localhost:8000", f"127.0.0.1:{server.port}")
    # Interactive, as if a person pastes the lines: zsh refuses comments only then.
    done = subprocess.run(
        [program, "-f" if shell == "zsh" else "--norc", "-i"],
        input=script,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert re.findall(r"=> (\d{3})", done.stdout) == promised, done.stdout + done.stderr
    assert len(promised) == script.count('call "') + script.count("call -G") > 0
    assert '"l": 2' in done.stdout
    assert "event: restore" in done.stdout
    assert '"1.name"' in done.stdout
    names = [name for (name,) in sql('SELECT name FROM projects ORDER BY name COLLATE "C"')]
    assert names == ["First", "Once", "Search", "Second", "번역"]


def test_tours_of_both_readmes_have_the_same_commands():
    english, korean = (tour_of(readme) for readme in READMES)
    assert english == korean
