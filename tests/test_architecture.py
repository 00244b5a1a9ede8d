"""Rules about the source itself: imports point one way, nothing is unpickled, functions and files stay short."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"
PACKAGE = SRC / "svhn_vae"
SCRIPTS = sorted(SRC.glob("*.py"))
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
EVERY_FILE = {path.relative_to(SRC).as_posix(): path for path in [*SCRIPTS, *FILES.values()]}

FOLDERS = {  # folder, or file at the top of the package -> what it may import of the package, beside itself
    "errors": "",
    "seeds": "",
    "model": "errors seeds",
    "runs": "errors",
    "data": "errors seeds model runs",
    "pictures": "errors seeds model runs data",
    "evaluation": "errors seeds model runs data pictures",
    "training": "errors seeds model runs data pictures evaluation",
    "report": "errors runs",
    "experiment": "errors seeds model runs data pictures evaluation training report",
    "commands": "errors seeds model runs data pictures evaluation training report experiment",
    "__init__": "runs experiment",  # its version, and load_run when it is asked for
}
WITHOUT_TORCH = ("errors", "runs.files", "runs.folder", "runs.installation", "report")
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "base", "manager", "misc"}
MAX_FUNCTION_LINES = 40
MAX_FILE_LINES = 400


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, at its top or inside a function; of `from a import b`, a.b."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def project_imports(path: Path) -> set[str]:
    """The modules of the package among them; what a package's own file re-exports is imported from that file."""
    found = set()
    for name in imports(path):
        package, _, inside = name.partition(".")
        if package == "svhn_vae":
            holder = inside.rpartition(".")[0]
            candidates = (inside, holder, f"{inside}.__init__", f"{holder}.__init__")
            found.add(next((module for module in candidates if module in FILES), "__init__"))
    return found


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call))


def says(call: ast.Call, keyword: str, value: object) -> bool:
    return any(k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is value for k in call.keywords)


def folder_of(module: str) -> str:
    return module.partition(".")[0]


def test_imports_point_one_way():
    wrong = {}
    for module, path in FILES.items():
        folder = folder_of(module)
        allowed = {folder, *FOLDERS[folder].split()}
        wrong[module] = [name for name in project_imports(path) if folder_of(name) not in allowed]
    assert {module: names for module, names in wrong.items() if names} == {}


def test_no_imports_in_a_circle():
    graph = {module: project_imports(path) - {module} for module, path in FILES.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(FILES)


def test_the_reader_of_imports_reads_them():
    """The rules above would hold of files in which nothing is found."""
    assert {"training.module", "data.module", "runs.folder"} <= project_imports(FILES["experiment.build"])
    assert {"hydra", "omegaconf", "torch"} <= libraries(FILES["experiment.build"])


def test_only_what_reads_commands_and_configurations_knows_hydra():
    others = {name: path for name, path in FILES.items() if folder_of(name) not in ("commands", "experiment")}
    assert [name for name, path in others.items() if {"hydra", "omegaconf"} & libraries(path)] == []


def test_reports_are_light():
    heavy = {"torch", "lightning", "hydra", "omegaconf"}
    light = {name: path for name, path in FILES.items() if name.startswith(WITHOUT_TORCH)}
    assert [name for name, path in light.items() if heavy & libraries(path)] == []


def test_libraries_of_loggers_are_left_to_lightning():
    """It imports them when they are first used."""
    assert [name for name, path in EVERY_FILE.items() if {"mlflow", "wandb"} & libraries(path)] == []


def test_nothing_is_unpickled():
    for path in EVERY_FILE.values():
        assert UNPICKLERS.isdisjoint(libraries(path)), path
        assert "torch.load" not in set(imports(path)), path  # called by its full name, where the next lines see it
        for call in calls(path):
            where = f"{path}:{call.lineno}: {ast.unparse(call)}"
            name = ast.unparse(call.func)
            reads_a_checkpoint = any(keyword.arg == "ckpt_path" for keyword in call.keywords)
            if name == "torch.load" or name.endswith("load_from_checkpoint") or reads_a_checkpoint:
                assert says(call, "weights_only", True), where
            if name == "np.load" or any(keyword.arg == "allow_pickle" for keyword in call.keywords):
                assert says(call, "allow_pickle", False), where


def test_names_say_something():
    assert [name for name in EVERY_FILE if NAMES_THAT_SAY_NOTHING & {*Path(name).with_suffix("").parts}] == []


def test_functions_and_files_are_short():
    long = []
    for name, path in EVERY_FILE.items():
        functions = (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
        long += [f"{name}: {function}, {n} lines" for function, n in lengths.items() if n > MAX_FUNCTION_LINES]
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES:
            long.append(f"{name}: {n} lines")
    assert long == []
