"""The arguments that the clouds' SDKs have for a resource type, read without importing them."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path


def constructor(token: str) -> dict[str, bool]:
    """The arguments of the SDK's own class for a type, in camelCase: whether each is required."""
    package, module, kind = re.fullmatch(r"(\w+):(\w+)/\w+:(\w+)", token).groups()
    folder = Path(importlib.util.find_spec(f"pulumi_{package}").origin).parent
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
    return arguments_of(folder / module / f"{name}.py", f"{kind}Args")


def arguments_of(file: Path, name: str) -> dict[str, bool]:
    tree = ast.parse(file.read_text())
    (made,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    (init,) = [node for node in made.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    pairs = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    defaults = {arg.arg: default is None for arg, default in pairs}
    return {re.sub(r"_(\w)", lambda found: found[1].upper(), arg): required for arg, required in defaults.items()}
