"""The shape of the package: who imports whom, how long things are, and what conf/ mirrors."""

import ast
import dataclasses
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import adaptkit
from adaptkit.config import compose, groups
from adaptkit.config import settings as config
from adaptkit.errors import ConfigError
from adaptkit.methods import METHODS
from adaptkit.models.model import Model
from adaptkit.optimizers import OPTIMIZERS
from adaptkit.regularizers import REGULARIZERS
from adaptkit.storage import bundled
from adaptkit.tasks import TASKS
from adaptkit.training.settings import TrainerSettings

PACKAGE = Path(adaptkit.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

# A room imports from rooms further left, and from itself.
ORDER = (
    "errors < storage < adaptation, optimizers, metrics < counts, models < layers, tasks"
    " < regularizers < methods, training, interop"
    " < config < runs < reports < terminal < train < cli"
)
RANK = {room: rank for rank, rooms in enumerate(ORDER.split(" < ")) for room in rooms.split(", ")}
TOP = ("__init__", "__main__")  # the package's own door: may import everything
CONFIG_READERS = {"config", "train", "cli"}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def group(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def each_file(check: Callable[[Path], None]) -> Callable[[], None]:
    """Check all files in one test: hundreds of tests would take longer to count than to run."""

    @functools.wraps(check)
    def of_all() -> None:
        for path in FILES:
            try:
                check(path)
            except AssertionError as error:
                raise AssertionError(f"{relative(path)}: {error}") from error

    del of_all.__wrapped__  # whose argument pytest would take for a fixture
    return of_all


def imports(path: Path) -> Iterator[str]:
    """Dotted names a file imports anywhere, what only type checkers see left out."""
    ignored = {
        id(inner)
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(TREES[path]):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            module = node.module or ""
            if module == "adaptkit":
                yield from (f"adaptkit.{alias.name}" for alias in node.names)
            else:
                yield module


def own_imports(path: Path) -> set[str]:
    """The modules and packages of adaptkit that a file imports."""
    parts = [name.split(".") for name in imports(path)]
    found = {p[1] for p in parts if p[0] == "adaptkit" and len(p) > 1}
    return {name for name in found if not name.startswith("__")}


# ---- who imports whom ----


@each_file
def test_imports_follow_the_order(path: Path) -> None:
    mine = group(path)
    if mine in TOP:
        return
    for other in own_imports(path) - {mine}:
        assert RANK[other] < RANK[mine], f"{relative(path)} imports {other}"


@each_file
def test_only_the_border_knows_hydra(path: Path) -> None:
    tops = {name.partition(".")[0] for name in imports(path)}
    assert not tops & {"hydra", "omegaconf"} or group(path) in CONFIG_READERS


REGISTRIES = ("methods", "regularizers", "tasks", "optimizers")


def test_registries_and_config_import_no_torch() -> None:
    names = [
        ".".join(("adaptkit", *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in FILES
        if group(path) in (*REGISTRIES, "config", "errors", "adaptation", "cli", "storage", "train")
    ]
    names = [name.removesuffix(".__init__") for name in names]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate', 'evaluate', 'sklearn'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---- how long things are ----


@each_file
def test_files_are_short(path: Path) -> None:
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length < 300


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


@each_file
def test_functions_are_short(path: Path) -> None:
    lengths = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions(TREES[path])}
    assert {name: n for name, n in lengths.items() if n > 60} == {}


@each_file
def test_what_is_public_has_a_docstring(path: Path) -> None:
    tree = TREES[path]
    assert ast.get_docstring(tree)
    bare = [name for name, node in public(tree) if not ast.get_docstring(node)]
    assert bare == []


def public(
    node: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Public classes and functions, methods included; not what is defined inside functions."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


@each_file
def test_no_assert_no_print(path: Path) -> None:
    """Errors are raised where the value is used; only the command line speaks."""
    nodes = list(ast.walk(TREES[path]))
    assert not any(isinstance(node, ast.Assert) for node in nodes)
    prints = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]
    assert not prints or group(path) in ("cli", "train", "terminal")


# ---- conf/ mirrors the package ----

NEEDED = {
    ("suite", "domain"): ["task=mnli"],  # what has no default
    ("task", "classify"): ["task.path=rows.csv", "task.text=[sentence]"],
    ("task", "regress"): ["task.path=rows.csv", "task.text=[sentence]"],
    ("task", "tag"): ["task.path=rows.jsonl"],
    ("task", "dependency"): ["task.path=rows.jsonl"],
    ("task", "choice"): ["task.path=rows.csv", "task.text=premise", "task.choices=[a,b]"],
    ("task", "gap"): ["task.path=rows.jsonl", "task.text=passage"],
    ("task", "span"): ["task.path=rows.jsonl"],
    ("task", "seq2seq"): ["task.path=rows.jsonl", "task.source=text"],
    ("task", "summarize"): ["task.path=rows.jsonl"],
    ("task", "lm"): ["task.path=rows.jsonl"],
    ("task", "mlm"): ["task.path=rows.jsonl"],
    ("model", "auto"): ["model.path=some/model"],
}
ALL = [
    (part, name)
    for part in groups.GROUPS
    for name in groups.options(part)
    if not name.startswith("paper/")  # tests/test_reproduce.py
]


def fields_of(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls) if f.init}


def test_options_are_the_registries() -> None:
    assert set(groups.options("method")) == set(METHODS)
    assert set(groups.options("optimizer")) == set(OPTIMIZERS)
    assert set(groups.options("regularizer")) == set(REGULARIZERS)
    assert set(TASKS) <= set(groups.options("task"))


@pytest.mark.parametrize(("part", "name"), ALL)
def test_every_yaml_composes_and_builds(part: str, name: str) -> None:
    plain = compose.compose([f"{part}={name}", *NEEDED.get((part, name), [])])
    package = {"mlflow": "mlflow", "wandb": "wandb", "tensorboard": "tensorboard"}.get(name, "sys")
    run = config.settings(plain)
    if part == "tracker" and importlib.util.find_spec(package) is None:
        with pytest.raises(ConfigError, match=f"needs the package {package}, .* pip install"):
            run.tracker.check_installed()
    if part == "method":
        assert type(run.method) is METHODS[name] and run.method_name == name
        assert set(plain["method"]) - {"name"} == fields_of(METHODS[name])
    elif part == "optimizer":
        assert type(run.optimizer) is OPTIMIZERS[name]
        assert set(plain["optimizer"]) - {"name"} == fields_of(OPTIMIZERS[name])
    elif part == "regularizer":
        assert set(run.regularizers) == {name}
        assert set(plain["regularizer"][name]) == fields_of(REGULARIZERS[name])
    elif part == "task":
        kind = plain["task"]["kind"]
        assert type(run.task) is TASKS[kind]
        assert set(plain["task"]) - {"kind"} == fields_of(TASKS[kind])
    elif part == "model":
        assert set(plain["model"]) == fields_of(Model)
    elif part == "trainer":
        assert set(plain["trainer"]) == fields_of(TrainerSettings)


@pytest.mark.sampled
@pytest.mark.parametrize("name", [n for n in groups.options("model") if n != "auto"])
def test_every_models_architecture_is_known(name: str) -> None:
    from adaptkit.models import anatomy, loading

    model = config.settings(compose.compose([f"model={name}"])).model
    if model.architecture:  # what `plan` reads without network
        loaded = loading.load_config(model, "sequence", 2, offline=True)
        assert loaded.model_type in anatomy.FAMILIES
    else:
        assert bundled.model(model.path).is_dir()
