"""Write aimt/__init__.pyi, so that editors and type checkers know the verbs with their options: `python docs/stubs.py`.

The options of `train` and `finetune` are made from the options of the kinds of models when the package runs; a type checker
does not run it. The stub says the same in text. A test keeps both equal.
"""

import inspect
import re
from pathlib import Path

import aimt
from aimt.core.commands import NAMES, VERBS, resolve
from aimt.data.io.memory import TableSource

STUB = Path(__file__).resolve().parent.parent / "aimt" / "__init__.pyi"
HEAD = """# Made by docs/stubs.py from the signatures of the verbs: do not edit.
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aimt.core.run import Run as Run
"""
SHORT = {
    "pandas.core.frame.": "pd.",
    "pandas.": "pd.",
    "numpy.": "np.",
    "pathlib.": "",
    "collections.abc.": "",
    "typing.": "",
    "aimt.core.run.": "",
}
TABLES = (TableSource, TableSource | None)
OWN = re.compile(r"(?<![\w.])(aimt(?:\.\w+)+)\.(\w+)")  # A type of aimt, by its module and its name


def type_text(annotation: object) -> str:
    """An annotation as it is written in a stub."""
    if annotation is inspect.Parameter.empty:
        return "Any"
    if annotation in TABLES:
        return "TableSource" if annotation == TableSource else "TableSource | None"
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    for long, short in SHORT.items():
        text = re.sub(rf"(?<![\w.]){re.escape(long)}", short, text)
    return OWN.sub(r"\2", text).replace("NoneType", "None")


def own_types(function: object) -> set[tuple[str, str]]:
    """Module and name of the types of aimt that a verb takes or returns."""
    signature = inspect.signature(function)
    annotations = [*(p.annotation for p in signature.parameters.values()), signature.return_annotation]
    return {found for a in annotations if a not in TABLES for found in OWN.findall(inspect.formatannotation(a)) if found[1] not in NAMES}


def parameter_text(p: inspect.Parameter) -> str:
    star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
    default = "" if p.default is p.empty else f" = {p.default!r}"
    return f"{star}{p.name}: {type_text(p.annotation)}{default}"


def function_stub(name: str, function: object) -> str:
    """The stub of a verb: signature and docstring."""
    parts, starred = [], False
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred = starred or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        parts.append(parameter_text(p))
    lines = "".join(f"    {part},\n" for part in parts)
    doc = inspect.getdoc(function) or ""
    body = '    """' + doc.replace("\n", "\n    ") + ('\n    """' if "\n" in doc else '"""')
    body = re.sub(r"[ \t]+$", "", body, flags=re.M)
    return f"def {name}(\n{lines}) -> {type_text(inspect.signature(function).return_annotation)}:\n{body}\n"


def stub() -> str:
    """The text of the stub."""
    names = [
        f"from {address.partition(':')[0]} import {address.partition(':')[2]} as {name}" for name, address in NAMES.items() if name != "Run"
    ]
    functions = {name: resolve(address) for name, address in VERBS.items()}
    verbs = [function_stub(name, function) for name, function in functions.items()]
    names += [f"from {module} import {name}" for module, name in sorted(set().union(*map(own_types, functions.values())))]
    public = "".join(f"    {name!r},\n" for name in aimt.__all__)
    return f"{HEAD}{chr(10).join(names)}\n\n__version__: str\n__all__ = [\n{public}]\n\n" + "\n".join(verbs)


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8", newline="\n")
