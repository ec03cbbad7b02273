"""Joins the modules of the page into one script.

The modules are ECMAScript modules that need no build. A browser would send a request for each of
them, and a page that loads one of them later could get it from another release. So the server joins
them when it first sends the script. Each module becomes a function that runs once. Its exports are
in a constant, which the console of the browser can show, too: `$rows.rows.get()`.

    import { t } from "./texts.js";           const $list = (() => {
    export function List() { ... }            const { t } = $texts;
                                              function List() { ... }
                                              return { List };
                                              })();
"""

import re
from pathlib import Path

# The only forms of imports and exports in the modules; tests/test_console_files.py checks this.
_IMPORT = re.compile(r'^import (?:(\w+)|(\{[^}]*\})) from "\./([\w-]+)\.js";$', re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|const|class) (\w+))", re.M)
_DEFAULT_EXPORT = re.compile(r"^export default ", re.M)
_EXPORT_LIST = re.compile(r"export\s*\{([^}]*)\};?\s*\Z")  # of the vendored file
_COMMENT = re.compile(r"^[ \t]*(?:/\*\*.*?\*/|//[^\n]*)\n", re.M | re.S)


def join_modules(folder: Path) -> str:
    """Return main.js with the modules that it imports, also through others, before it.

    The comments are left out: they are a fifth of the bytes. Raises RecursionError if modules
    import each other in a circle.
    """
    functions: dict[str, str] = {}

    def add(name: str) -> None:
        if name not in functions:
            source = (folder / f"{name}.js").read_text()
            for _, _, imported in _IMPORT.findall(source):
                add(imported)
            functions[name] = _to_function(name, source)

    add("main")
    return '"use strict";\n' + "".join(functions.values())


def _to_function(name: str, source: str) -> str:
    exports = _EXPORT.findall(source)
    if _DEFAULT_EXPORT.search(source):
        exports.append("default: $default")
    for exported in _EXPORT_LIST.findall(source):
        exports += [": ".join(pair.split(" as ")[::-1]) for pair in exported.split(",")]
    body = _EXPORT_LIST.sub("\n", _DEFAULT_EXPORT.sub("const $default = ", _EXPORT.sub("", source)))
    body = _COMMENT.sub("", _IMPORT.sub(_to_constants, body))
    return (
        f"const {_variable(name)} = (() => {{\n{body}return {{ {', '.join(exports)} }};\n}})();\n"
    )


def _to_constants(statement: re.Match[str]) -> str:
    default, names, module = statement.groups()
    target = f"{{ default: {default} }}" if default else names.replace(" as ", ": ")
    return f"const {target} = {_variable(module)};"


def _variable(module: str) -> str:
    return "$" + module.replace("-", "_")
