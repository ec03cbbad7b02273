"""Write the tables of docs/settings.md and the lines of .env.example from config.py.

`python -m tests.settings_page` updates both files; a test compares them with config.py.
"""

import re

import config

PAGE = config.ROOT / "docs" / "settings.md"
EXAMPLE = config.ROOT / ".env.example"

# Forms of settings whose default has no text.
EXAMPLES = {
    "ALLOWED_ORIGINS": "http://localhost:5173,http://localhost:5174",
    "AUTH": "none",
    "DATABASE_URL": "postgresql://USER:PASSWORD@HOST:5432/DATABASE",
}


def read_settings():
    """Return each setting as (name, default, meaning), grouped by the headings of config.py."""
    groups, comment = [], []
    for line in (config.ROOT / "config.py").read_text().splitlines():
        if line.startswith("    # == "):
            groups.append([])
        elif text := re.fullmatch(r"    # (.*)", line):
            comment.append(text[1])
        elif name := re.match(r"    ([A-Z_]+): ", line):
            meaning, _, default = " ".join(comment).partition(" Default: ")
            groups[-1].append((name[1], default or default_cell(name[1]), meaning))
            comment = []
    return [group for group in groups if group]


def default_cell(name):
    default, in_production = (text_of(cls, name) for cls in (config.Development, config.Production))
    cell = f"`{default}`" if default else "none"
    has_another = name != "APP_ENV" and in_production != default
    return f"{cell}; in production `{in_production}`" if has_another else cell


def text_of(cls, name):
    value = getattr(cls, name)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def render_page(page):
    """Return the page with the rows of config.py in its tables, one table for each group."""
    rows = iter(
        "".join(f"| `{name}` | {default} | {meaning} |\n" for name, default, meaning in group)
        for group in read_settings()
    )
    return re.sub(r"(?m)(?<=^\|---\|---\|---\|\n)(?:^\|.*\n)+", lambda _: next(rows), page)


def render_example(example):
    """Return the introduction of the example, and one line for each setting of config.py."""
    names = [name for group in read_settings() for name, _, _ in group if name != "APP_ENV"]
    lines = [
        f"# {name}={EXAMPLES.get(name) or text_of(config.Development, name)}\n" for name in names
    ]
    return example.partition("\nAPP_ENV=")[0] + "\nAPP_ENV=development\n" + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(render_page(PAGE.read_text()))
    EXAMPLE.write_text(render_example(EXAMPLE.read_text()))
