"""The code of a release: export it from git or from the working tree, and find the previous one."""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import config

_UNKNOWN_REVISION = (
    "git does not have this release, perhaps because the clone is shallow."
    " Name another one with --from REVISION."
)


def migrations(code: Path) -> set[str]:
    return {path.stem for path in (code / "migrations" / "versions").glob("[0-9]*_*.py")}


def find_previous_release() -> str:
    """Return the last tag; without a tag, the commit before the newest migration."""
    with suppress(SystemExit):
        return run_git("describe", "--tags", "--abbrev=0")
    newest = f"migrations/versions/{max(migrations(config.ROOT))}.py"
    commit = run_git("log", "--diff-filter=A", "--format=%H", "-1", "--", newest)
    return f"{commit}^" if commit else "HEAD"


def describe_commit(revision: str) -> str:
    """Return the short hash and the subject."""
    return run_git("show", "--no-patch", "--format=%h %s", f"{revision}^{{commit}}")


def export_commit(revision: str, folder: Path) -> None:
    archive = folder.with_suffix(".tar")
    run_git("archive", "--output", str(archive), revision)
    folder.mkdir()
    subprocess.run(["/usr/bin/env", "tar", "-xf", archive, "-C", folder], check=True)


def export_working_tree(folder: Path) -> None:
    for name in run_git("ls-files", "-co", "--exclude-standard", "-z").split("\0"):
        if (config.ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(config.ROOT / name, folder / name)


def run_git(*arguments: str) -> str:
    """Return git's output; exit with a message if it fails."""
    command = ["/usr/bin/env", "git", "-C", str(config.ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except subprocess.CalledProcessError:
        raise SystemExit(_UNKNOWN_REVISION) from None
