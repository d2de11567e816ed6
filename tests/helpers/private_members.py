"""Which private members of ours a test reaches, and which other tests it imports: read in its source."""

import ast
from collections.abc import Iterator

_OURS = {"upcycle", "replay_service", "teacher_store", "actors", "learner", "orchestrator", "benchmarks", "tests"}
_BY_NAME = {"setattr", "delattr", "getattr", "hasattr", "patch", "object"}
"""Functions, and methods of `monkeypatch` and `mock.patch`, that take the name of an attribute as a string."""


def imported_tests(tree: ast.Module) -> list[str]:
    """The test modules that a module imports."""
    return sorted(name for name, _ in _imports(tree) if name.rpartition(".")[2].startswith("test_"))


def private_members(tree: ast.Module) -> list[str]:
    """The private names of ours, as far as the source shows: imported, read as attributes, or given as strings."""
    foreign = set[str]()
    found = set[str]()
    for module, names in _imports(tree):
        ours = module.partition(".")[0] in _OURS
        parts = {*module.split("."), *names}
        if ours:
            found |= {part for part in parts if _is_private(part)}
        else:
            foreign |= names or {module.partition(".")[0]}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=owner, attr=name) if _is_private(name) and _root(owner) not in foreign:
                if not (isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
                    found.add(name)
            case ast.Call(func=ast.Name(id=function) | ast.Attribute(attr=function)) if function in _BY_NAME:
                if not (node.args and _root(node.args[0]) in foreign):
                    found |= set(_private_strings(node))
            case _:
                pass
    return sorted(found)


def _imports(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """Each module that is imported, with the names that are taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, {alias.asname} if alias.asname else set()
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = {alias.name for alias in node.names}
            yield node.module, names
            for name in names:
                yield f"{node.module}.{name}", {name}


def _private_strings(call: ast.Call) -> Iterator[str]:
    for argument in call.args[:2]:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            yield from (part for part in argument.value.split(".") if _is_private(part))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _root(node: ast.expr) -> str | None:
    """The name at which a chain of attributes, calls and subscripts begins."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None
