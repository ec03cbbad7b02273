"""docs/deploy.md is right: its settings load, its files are valid, its commands exist."""

import configparser
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
from pathlib import Path

import pytest
import yaml

import config
from faults.processes import free_port
from tests.test_serving import end, upgrade

pytestmark = pytest.mark.slow

PAGE = (config.ROOT / "docs" / "deploy.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M))
PLATFORMS = [name for name in SECTIONS if name != "Everywhere"]
BULLETS = [
    *("Port", "Migrations", "Probes", "First token", "TRUSTED_PROXIES", "Stop", "Database"),
]
LOCAL = {"DATABASE_URL": "postgresql://USER:PASSWORD@HOST/DATABASE", "AUTH": "tokens"}
COMPOSE = yaml.safe_load((config.ROOT / "compose.yaml").read_text())
BIN = Path(sys.executable).parent


def blocks(platform, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[platform], re.S | re.M)


def bullet(platform, title):
    """The text of a bullet point of a section, on one line."""
    text = re.search(rf"^- \*\*{title}\*\*: (.*?)(?=^- |^$|\Z)", SECTIONS[platform], re.S | re.M)
    return " ".join(text[1].split())


def parsed_blocks(platform):
    """The parsed YAML, TOML or JSON documents of a section."""
    for language, parse in (("toml", tomllib.loads), ("json", json.loads)):
        for text in blocks(platform, language):
            return [parse(text)]
    return [document for text in blocks(platform, "yaml") for document in yaml.safe_load_all(text)]


def pod():
    return parsed_blocks("Kubernetes")[0]["spec"]["template"]["spec"]


def pairs(text):
    return dict(re.findall(r'\b([A-Z_]{4,})="?([\w./:,-]+)', text))


def settings(platform):
    """The environment variables of the service in a section, without the database's URL."""
    if platform == "Docker Compose":
        return {k: v for k, v in COMPOSE["services"]["api"]["environment"].items() if "$" not in v}
    if platform == "Docker":
        return dict(re.findall(r"--env (\w+)=(\S+)", blocks(platform, "sh")[0]))
    if platform == "systemd":
        return pairs(re.search("Environment=(.*)", blocks(platform, "ini")[0])[1])
    if platform == "Kubernetes":
        return {item["name"]: item["value"] for item in pod()["containers"][0]["env"]}
    if platform == "Cloud Run":
        return dict(re.findall(r'--set-env-vars "?(\w+)=([^"\s]+)', blocks(platform, "sh")[0]))
    if platform == "Fly.io":
        return parsed_blocks(platform)[0]["env"]
    if platform == "Render":
        variables = parsed_blocks(platform)[0]["services"][0]["envVars"]
        return {item["key"]: item["value"] for item in variables if "value" in item}
    if platform == "Railway":
        return pairs(re.sub("DATABASE_URL=.*", "", blocks(platform, "sh")[0]))
    return pairs(re.search("`heroku config:set (.*?)`", SECTIONS[platform], re.S)[1])


@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_platform_has_all_bullet_points(platform):
    titles = re.findall(r"^- \*\*(.+?)\*\*: \S", SECTIONS[platform], re.M)
    assert titles == BULLETS


@pytest.mark.parametrize("platform", PLATFORMS)
def test_settings_of_each_platform_load_and_stop_before_its_kill(platform):
    if platform == "Docker Compose":
        text = (config.ROOT / "compose.yaml").read_text().partition("  api:")[2]
    else:
        text = SECTIONS[platform]
    kill_time = re.search(
        r"--stop-timeout |TimeoutStopSec=|terminationGracePeriodSeconds: |kill_timeout = "
        r'|maxShutdownDelaySeconds: |drainingSeconds": "|stop_grace_period: '
        r"|SIGKILL comes |\*\*Stop\*\*: (?=30 seconds\. Heroku)",
        text,
    )
    seconds = int(re.match(r"\d+", text[kill_time.end() :])[0])
    loaded = config.load_config(LOCAL | {"APP_ENV": "production"} | settings(platform))
    assert seconds > loaded.GRACEFUL_TIMEOUT
    assert loaded.AUTH == ("tokens",)


def test_settings_for_dockers_stop_time_of_ten_seconds_load():
    loaded = config.load_config(LOCAL | {"APP_ENV": "production"} | pairs(bullet("Docker", "Stop")))
    assert (loaded.GRACEFUL_TIMEOUT, loaded.DRAIN_TIMEOUT) == (9, 0)


@pytest.mark.parametrize(
    ("platform", "modes"),
    [
        ("systemd", [None]),
        ("Cloud Run", [None, None]),  # its socket, and the proxy on the developer's machine
        ("Fly.io", ["require", "disable"]),
        ("Render", [None]),
        ("Railway", ["require"]),
        ("Heroku", ["require"]),
    ],
)
def test_database_url_of_each_platform_has_the_needed_sslmode(platform, modes):
    urls = re.findall(r"`(?:DATABASE_URL=)?(postgres\w*://.*?)`", SECTIONS[platform])
    assert sorted(map(str, modes)) == sorted(
        str(config.parse_database_url("".join(url.split())).get("sslmode")) for url in urls
    )


@pytest.mark.parametrize(
    ("host", "mode"),
    [
        ("database", None),  # of compose.yaml
        ("postgres.railway.internal", None),
        ("db.shop.svc", None),
        ("db.shop.svc.cluster.local", None),
        ("dpg-abc-a", None),
        ("pgbouncer.abc.flympg.net", "verify-full"),
        ("dpg-abc-a.oregon-postgres.render.com", "verify-full"),
        ("ec2-1-2-3-4.compute-1.amazonaws.com", "verify-full"),
    ],
)
def test_each_host_on_the_page_is_private_or_public_as_described(host, mode):
    assert config.parse_database_url(f"postgresql://u:p@{host}/d").get("sslmode") == mode


def test_probes_use_existing_paths_and_ports(app):
    api = pod()["containers"][0]
    probes = [api[f"{name}Probe"] for name in ("startup", "liveness", "readiness")]
    assert [probe["httpGet"]["path"] for probe in probes] == ["/health", "/health", "/ready"]
    assert {probe["httpGet"]["port"] for probe in probes} == {api["ports"][0]["name"]}
    assert parsed_blocks("Fly.io")[0]["http_service"]["checks"][0]["path"] == "/ready"
    assert parsed_blocks("Render")[0]["services"][0]["healthCheckPath"] == "/health"
    assert parsed_blocks("Railway")[0]["deploy"]["healthcheckPath"] == "/ready"
    shell = blocks("Cloud Run", "sh")[0]
    assert "--startup-probe httpGet.path=/ready --liveness-probe httpGet.path=/health" in shell
    assert {"/health", "/ready"} <= {rule.rule for rule in app.url_map.iter_rules()}


def test_ports_of_a_platform_agree():
    fly = parsed_blocks("Fly.io")[0]
    assert fly["http_service"]["internal_port"] == int(fly["env"]["PORT"])
    deployment, service = parsed_blocks("Kubernetes")
    assert pod()["containers"][0]["ports"][0]["containerPort"] == config.Config.PORT
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert COMPOSE["services"]["api"]["ports"] == [
        f"127.0.0.1:${{PORT:-8000}}:{config.Config.PORT}"
    ]


def test_kubernetes_manifest_drops_privileges_and_migrates_first():
    (migrate,), (api,) = pod()["initContainers"], pod()["containers"]
    assert migrate["command"] == ["flask", "db", "upgrade"]
    user = re.search(r"^USER (\d+):", (config.ROOT / "Dockerfile").read_text(), re.M)[1]
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["runAsUser"] == int(user)
    for container in (migrate, api):
        assert container["image"] == api["image"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert "projectapp-migrate" not in str(api)  # the role of this secret may change tables


def test_compose_keeps_the_data_and_publishes_only_the_port_of_the_api():
    text = (config.ROOT / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{POSTGRES_PASSWORD(..)", text)) == {":?"}
    services = COMPOSE["services"]
    assert services["database"]["volumes"] == ["data:/var/lib/postgresql"]
    assert "data" in COMPOSE["volumes"]
    assert "ports" not in services["database"]
    assert "--host=127.0.0.1" in services["database"]["healthcheck"]["test"]
    assert services["migrate"]["command"] == ["flask", "db", "upgrade"]
    for name in ("migrate", "api"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]


def test_heroku_commands_add_sslmode_require_to_the_url(tmp_path):
    (heroku,) = parsed_blocks("Heroku")
    for program in ("flask", "gunicorn"):
        (tmp_path / program).write_text('#!/bin/sh\necho "$0" "$@" "$DATABASE_URL"\n')
        (tmp_path / program).chmod(0o755)
    url = "postgres://u:p@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d"
    for command, expected in (
        (heroku["release"]["command"][0], "flask db upgrade"),
        (heroku["run"]["web"], "gunicorn wsgi:app"),
    ):
        output = subprocess.check_output(
            ["sh", "-c", command],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "DATABASE_URL": url},
            text=True,
        )
        assert output == f"{tmp_path}/{expected} {url}?sslmode=require\n"
        assert config.parse_database_url(output.split()[-1])["sslmode"] == "require"


def test_token_command_on_the_page_creates_a_token(auth_app, sql):
    (command,) = set(re.findall(r"flask (tokens create --.*? --scope [\w:,]+)", PAGE))
    done = auth_app.test_cli_runner().invoke(args=shlex.split(command))
    assert done.exit_code == 0, done.output
    assert sql("SELECT name, owner FROM api_tokens") == [("CI", "alice")]


def test_gunicorn_cmd_args_on_the_page_override_the_worker_timeout():
    """GUNICORN_CMD_ARGS overrides gunicorn.conf.py."""
    (arguments,) = set(re.findall(r'GUNICORN_CMD_ARGS="?=?(--timeout 0)"', PAGE))
    assert arguments == re.search(r'"GUNICORN_CMD_ARGS=(.*?)"', SECTIONS["Cloud Run"])[1]
    printed = subprocess.check_output(
        [BIN / "gunicorn", "--print-config", "wsgi:app"],
        cwd=config.ROOT,
        env={**os.environ, **LOCAL, "APP_ENV": "production", "GUNICORN_CMD_ARGS": arguments},
        text=True,
    )
    assert re.search(r"^timeout += 0$", printed, re.M)


def test_systemd_units_are_valid(tmp_path):
    names = re.findall(r"`/etc/systemd/system/(\S+)`", SECTIONS["systemd"])
    units = dict(zip(names, blocks("systemd", "ini"), strict=True))
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("gunicorn", "flask"):
        (programs / name).symlink_to("/bin/true")
    for name, text in units.items():
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str
        unit.read_string(text)
        if name.endswith(".service"):
            assert unit["Service"]["User"] != "root"
        (tmp_path / name).write_text(text.replace("/opt/projectapp", str(tmp_path)))
    if not shutil.which("systemd-analyze"):
        return  # at least they could be parsed
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / name for name in units)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_is_notified_of_the_start_and_keeps_the_socket(app, database_url, tmp_path):
    """Do what systemd does for Type=notify and a socket unit: sd_notify(3), sd_listen_fds(3)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, socket.socket() as port:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(30)
        port.bind(("127.0.0.1", free_port()))
        port.listen(2048)
        environ = {
            k: v for k, v in os.environ.items() if k not in config.Config.declared_settings()
        }
        environ |= {"APP_ENV": "testing", "DATABASE_URL": database_url}
        environ["NOTIFY_SOCKET"] = notified.getsockname()
        script = f"exec 3<&{port.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec gunicorn wsgi:app"
        for name in ("start", "restart"):
            with (tmp_path / name).open("wb") as log:
                process = subprocess.Popen(
                    ["bash", "-c", script],
                    cwd=config.ROOT,
                    env=environ | {"PATH": f"{BIN}:{environ['PATH']}"},
                    pass_fds=[port.fileno()],
                    stderr=log,
                )
            try:
                assert b"READY=1" in notified.recv(1000)
                with socket.create_connection(port.getsockname(), timeout=30) as client:
                    client.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
            finally:
                process.terminate()
                process.wait(timeout=30)


def create_release(folder):
    """Create a release with its own virtual environment.

    Each start of its Python writes the path of this environment to a file in the folder MARKS.
    """
    folder.mkdir()
    files = ("config.py", "gunicorn.conf.py", "wsgi.py")
    for name in (*files, "migrations", "projectapp", "settings"):
        (folder / name).symlink_to(config.ROOT / name)
    venv.create(folder / ".venv", symlinks=True)
    (packages,) = folder.glob(".venv/lib/python*/site-packages")
    (packages / "others.pth").write_text(
        f"{sysconfig.get_path('purelib')}\n"
        "import os, sys; open(f'{os.environ[\"MARKS\"]}/{os.getpid()}', 'w').write(sys.prefix)\n"
    )
    script = folder / ".venv" / "bin" / "gunicorn"
    script.write_text(f"#!{script.parent}/python\nfrom gunicorn.app.wsgiapp import run\nrun()\n")
    script.chmod(0o755)


def test_upgraded_master_runs_code_and_packages_of_the_new_release(app, database_url, tmp_path):
    page = (config.ROOT / "docs" / "operations.md").read_text()
    start, link = re.search(r"^ {6}(cd current .*)$.*?^ {6}(ln .*?)  ", page, re.S | re.M).groups()
    for name in ("OLD", "NEW"):
        create_release(tmp_path / name)
    (tmp_path / "current").symlink_to("OLD")
    (tmp_path / "marks").mkdir()
    environ = {k: v for k, v in os.environ.items() if k not in config.Config.declared_settings()}
    environ |= {"APP_ENV": "testing", "DATABASE_URL": database_url, "PORT": str(free_port())}
    environ["MARKS"] = str(tmp_path / "marks")
    with (tmp_path / "log").open("wb") as log:
        old = subprocess.Popen(["bash", "-c", start], cwd=tmp_path, env=environ, stderr=log)
    new = None
    try:
        deadline = time.monotonic() + 30
        while (tmp_path / "log").read_text().count("Worker ready") < 2:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        subprocess.run(["bash", "-c", link], cwd=tmp_path, check=True)
        new = upgrade(old.pid, tmp_path / "log")
        assert old.wait(timeout=30) == 0
        assert os.readlink(f"/proc/{new}/cwd") == str(tmp_path / "NEW")
        prefix = (tmp_path / "marks" / str(new)).read_text()
        assert Path(prefix).resolve() == tmp_path / "NEW" / ".venv"
    finally:
        if new:
            end(new)
        if old.poll() is None:
            old.kill()
            old.wait()
