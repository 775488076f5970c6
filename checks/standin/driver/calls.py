"""calls.py DRIVER SCRIPT…: each call in the testScripts exists in the test driver whose source lies below DRIVER, with those arguments.

DRIVER is this directory, or nixos/lib/test-driver of a checkout of nixpkgs, with which this one is compared as well. Nothing of either is
run: the sources are only read.
"""

from __future__ import annotations

import ast
import builtins
import datetime
import inspect
import re
import sys
import unittest
from pathlib import Path
from typing import Iterator

MACHINES = ("Machine", "BaseMachine", "QemuMachine")
LOGGERS = ("Logger", "AbstractLogger")
VALUES = (str, bytes, list, dict, set, tuple, int, float, re.Match, datetime.datetime)  # whose methods a script calls as well
Calls = dict[str, inspect.Signature]


def signature(function: ast.FunctionDef, method: bool) -> inspect.Signature:
    given = function.args
    kinds = inspect.Parameter
    positional = given.posonlyargs + given.args
    optional = len(positional) - len(given.defaults)
    defaults = [kinds.empty] * optional + [ast.unparse(d) for d in given.defaults]
    found = [kinds(a.arg, kinds.POSITIONAL_OR_KEYWORD, default=d) for a, d in zip(positional, defaults)]
    if given.vararg:
        found.append(kinds(given.vararg.arg, kinds.VAR_POSITIONAL))
    found += [kinds(a.arg, kinds.KEYWORD_ONLY, default=ast.unparse(d) if d else kinds.empty) for a, d in zip(given.kwonlyargs, given.kw_defaults)]
    if given.kwarg:
        found.append(kinds(given.kwarg.arg, kinds.VAR_KEYWORD))
    return inspect.Signature(found[1:] if method else found)


class Driver:
    def __init__(self, directory: Path) -> None:
        self.machine: Calls = {}
        self.logger: Calls = {}
        self.functions: Calls = {}
        names: set[str] = set()
        for file in sorted(directory.rglob("*.py")):
            tree = ast.parse(file.read_text())
            for node in tree.body:
                if isinstance(node, ast.FunctionDef):
                    self.functions[node.name] = signature(node, method=False)
                if not isinstance(node, ast.ClassDef):
                    continue
                methods = {f.name: signature(f, method=True) for f in node.body if isinstance(f, ast.FunctionDef)}
                if node.name in MACHINES:
                    self.machine.update(methods)
                elif node.name in LOGGERS:
                    self.logger.update(methods)
                elif node.name == "Driver":
                    self.functions.update(methods)
                    names |= set(symbols(node))
        self.functions = {name: s for name, s in self.functions.items() if name in names}
        if not self.machine or not names:
            sys.exit(f"{directory} is not the source of a test driver")


def symbols(driver: ast.ClassDef) -> Iterator[str]:
    """The names that the driver gives to a testScript."""
    for function in driver.body:
        if isinstance(function, ast.FunctionDef) and function.name in ("test_symbols", "symbols"):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
                    yield from (k.arg for k in node.keywords if k.arg)
                if isinstance(node, ast.Dict):
                    yield from (k.value for k in node.keys if isinstance(k, ast.Constant))


def mistakes(driver: Driver, script: Path, common: set[str]) -> Iterator[str]:
    tree = ast.parse(script.read_text())
    defined = defines(tree) | common | set(dir(builtins))
    modules = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names} | {"json"}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name, known = "", None
        if isinstance(call.func, ast.Name):
            name = call.func.id
            if name in defined:
                continue
            known = driver.functions.get(name)
        elif isinstance(call.func, ast.Attribute):
            name = call.func.attr
            of = ast.unparse(call.func.value).split(".")[0]
            if of in modules:
                continue
            if of == "t":
                known = inspect.signature(getattr(unittest.TestCase(), name)) if hasattr(unittest.TestCase, name) else None
            elif of == "log":
                known = driver.logger.get(name)
            else:
                known = driver.machine.get(name)
                if known is None and any(hasattr(value, name) for value in VALUES):
                    continue
        where = f"{script}:{call.lineno}: {ast.unparse(call.func)}"
        if known is None or name.startswith("_"):
            yield f"{where}: no such call"
            continue
        if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
            continue
        try:
            known.bind(*call.args, **{k.arg: k.value for k in call.keywords if k.arg})
        except TypeError as e:
            yield f"{where}: {e}; it takes {known}"


def differences(ours: Driver, theirs: Driver) -> Iterator[str]:
    """What the driver of the stand-in offers and the other one does not, or with other arguments."""
    for kind in ("machine", "functions", "logger"):
        have: Calls = getattr(theirs, kind)
        for name, arguments in getattr(ours, kind).items():
            if not name.startswith("_") and str(arguments) != str(have.get(name)):
                yield f"{kind}: {name}{arguments}, there {have.get(name)}"


def defines(tree: ast.Module) -> set[str]:
    """The functions of a script, and what they are called with."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {f.name for f in functions} | {a.arg for f in functions for a in f.args.args}


def main(directory: str, *scripts: str) -> int:
    driver = Driver(Path(directory))
    common = set().union(*(defines(ast.parse(Path(s).read_text())) for s in scripts if Path(s).name == "common.py"))
    found = [m for s in scripts for m in mistakes(driver, Path(s), common)]
    if (own := Path(__file__).parent) != Path(directory).resolve():
        found += differences(Driver(own), driver)
    print("\n".join(found) or f"{len(scripts)} scripts: every call is in {directory}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
