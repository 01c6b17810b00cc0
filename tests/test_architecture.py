"""How the house is built: which way imports point, no circles, no file too long."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("bilevel", "problems", "experiments")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ORDER
    for path in sorted((ROOT / package).rglob("*.py"))
}


def listed(package: str) -> dict[str, str]:
    """Name -> module of what a package exports lazily."""
    stub = FILES[package].with_suffix(".pyi")
    found = {}
    for node in ast.parse(stub.read_text(encoding="utf-8")).body if stub.is_file() else ():
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name: f"{package}.{node.module}" for alias in node.names}
    return found


LISTED = {module: listed(module) for module in FILES}


def for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(module: str, types: bool = False) -> Iterator[str]:
    """Our modules that a module imports, inside its functions too."""
    waiting: list[ast.AST] = [ast.parse(FILES[module].read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if for_types_only(node) and not types:
            assert isinstance(node, ast.If)
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module:
            lazy = LISTED.get(node.module, {})
            inner = [lazy.get(alias.name, f"{node.module}.{alias.name}") for alias in node.names]
            yield from (name for name in inner if name in FILES)
            if node.module in FILES and not all(name in FILES for name in inner):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)


def circles(types: bool) -> list[set[str]]:
    """Groups of modules that import one another (Tarjan's strongly connected components)."""
    graph = {module: set(imports(module, types)) - {module} for module in FILES}
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for other in graph[module]:
            if other not in number:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], number[other])
        if low[module] == number[module]:
            group = set(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(group)

    for module in graph:
        if module not in number:
            visit(module)
    return found


def test_no_circle_at_run_time() -> None:
    assert circles(types=False) == []


def test_one_circle_of_types_at_the_most() -> None:
    assert len(circles(types=True)) <= 1


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_one_way(package: str) -> None:
    allowed = ORDER[: ORDER.index(package) + 1]
    for module in FILES:
        if module.split(".")[0] == package:
            assert all(name.split(".")[0] in allowed for name in imports(module, types=True)), (
                module
            )


def test_no_file_is_too_long() -> None:
    lengths = {m: len(p.read_text(encoding="utf-8").splitlines()) for m, p in FILES.items()}
    assert {module: lines for module, lines in lengths.items() if lines > 500} == {}


def test_the_top_of_experiments_holds_programs() -> None:
    top = sorted(path for path in (ROOT / "experiments").glob("*.py") if path.stem != "__init__")
    others = [path.stem for path in top if "__main__" not in path.read_text(encoding="utf-8")]
    assert others == ["answers", "api"]


def test_few_attributes_are_probed_for() -> None:
    lines = probes = 0
    for module, path in FILES.items():
        if module.startswith("bilevel"):
            text = path.read_text(encoding="utf-8")
            lines += len(text.splitlines())
            probes += text.count("getattr")
    assert probes <= 2 * lines / 1000


UNIX_ALONE = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "readline"}


def imported_at_once(tree: ast.Module) -> Iterator[str]:
    """Top-level names that are imported when a module is, and not when a function runs."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or for_types_only(node):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_every_module_can_be_imported_on_windows() -> None:
    files = [
        *FILES.values(),
        *(ROOT / "benchmarks").rglob("*.py"),
        *(ROOT / "examples").rglob("*.py"),
    ]
    found = {path: set(imported_at_once(ast.parse(path.read_text("utf-8")))) for path in files}
    assert {
        path.name: names & UNIX_ALONE for path, names in found.items() if names & UNIX_ALONE
    } == {}
    assert set(imported_at_once(ast.parse("if True:\n    import fcntl"))) & UNIX_ALONE


# Attributes of os and signal that Windows lacks: with any of them a module ends there when it runs.
UNIX_NAMES = {
    "os": {"fork", "killpg", "getpgid", "setsid", "geteuid", "getuid", "chown", "mkfifo", "uname"},
    "signal": {"SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "alarm", "setitimer", "pause"},
}


def test_no_module_names_what_windows_lacks() -> None:
    for path in FILES.values():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.attr not in UNIX_NAMES.get(node.value.id, ()), f"{path}:{node.lineno}"
