"""Rules about the source itself: imports point one way, nothing is unpickled, functions and files stay short."""

import ast
import fnmatch
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
PACKAGE = SRC / "svhn_vae"
SCRIPTS = sorted(SRC.glob("*.py"))
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
EVERY_FILE = {path.relative_to(SRC).as_posix(): path for path in [*SCRIPTS, *FILES.values()]}

KNOW_HYDRA = (
    "benchmark.parts", "benchmark.training", "build", "commandline", "launchers", "loading", "plan", "sweep", "turn",
)  # fmt: skip
ALL_BUT_HYDRAS = " ".join(module for module in FILES if module not in KNOW_HYDRA)
# Which modules of the project each module may import. A new module is placed here before anything else.
ALLOWED = {
    "__init__": "loading",  # when load_run is asked for
    "elbo": "",
    "networks.__init__": "networks.interface",
    "networks.interface": "",
    "networks.checks": "",
    "networks.layers": "whole_batch",
    "networks.conv": "networks.checks networks.interface networks.layers",
    "networks.dcgan": "networks.checks networks.interface networks.layers",
    "networks.dense": "networks.checks networks.interface networks.layers",
    "networks.keras_conv": "networks.checks networks.interface networks.layers",
    "networks.resnet": "networks.checks networks.interface networks.layers",
    "networks.ladder": "networks.checks networks.interface networks.layers networks.resnet",
    "networks.spectral": "cosine networks.checks networks.interface networks.layers",
    "variance.__init__": "variance.*",
    "variance.head": "",
    "variance.gaussian": "variance.head",
    "variance.constant": "variance.gaussian variance.head whole_batch",
    "variance.per_image": "variance.constant variance.gaussian",
    "variance.per_element": "variance.gaussian variance.head",
    "variance.heavy_tailed": "variance.gaussian variance.head",
    "variance.low_rank": "variance.gaussian variance.head",
    "variance.pixels": "variance.head",
    "variance.logistic": "variance.gaussian variance.head variance.pixels",
    "variance.spectral": "cosine variance.gaussian variance.head",
    "cosine": "",
    "seeds": "",
    "whole_batch": "",
    "whole_batch_layers": "whole_batch",
    "residual": "",
    "atomic": "",
    "runs": "atomic",
    "lock": "runs",
    "interruption": "",
    "ledger": "runs",
    "tensors": "atomic",
    "errors": "data.mat",
    "study": "runs",
    "history": "atomic",
    "scatter": "",
    "representation": "cosine residual scatter",
    "data.__init__": "",
    "data.digits": "",
    "data.mat": "",
    "data.download": "data.mat",
    "data.projected": "representation",
    "data.batches": "data.mapped data.projected representation scatter seeds",
    "data.mapped": "atomic data.dataset data.mat tensors",
    "data.kept": "tensors",
    "data.drawn": "data.digits data.kept data.mat",
    "data.dataset": "data.download data.drawn data.mat",
    "data.moments": "data.batches data.kept scatter seeds",
    "data.represented": "data.batches data.dataset data.moments representation",
    "data.module": "data.* representation scatter",
    "metrics": "elbo representation seeds vae",
    "evaluation.__init__": "",
    "evaluation.densities": "scatter",
    "evaluation.mixture": "evaluation.densities scatter",
    "evaluation.baselines": "data.* elbo evaluation.* representation runs scatter seeds vae",
    "evaluation.judge": "data.batches data.dataset data.mat data.moments tensors",
    "evaluation.judged": "data.dataset evaluation.judge evaluation.samples pictures.gallery vae",
    "evaluation.reconstruction": "representation vae",
    "evaluation.samples": "evaluation.judge evaluation.reconstruction scatter seeds vae",
    "evaluation.bounds": "representation seeds vae",
    "evaluation.latents": "elbo",
    "evaluation.plot": "",
    "evaluation.calibration": "evaluation.plot representation",
    "evaluation.order_of_learning": "cosine evaluation.plot representation vae",
    "evaluation.score": "data.batches data.mat data.moments data.represented elbo evaluation.* metrics "
    "networks.interface vae",
    "vae": "elbo networks.__init__ representation variance.* whole_batch",
    "objective": "vae variance.* whole_batch",
    "skips": "",
    "update": "metrics objective representation vae whole_batch",
    "lit": "divergence metrics objective representation seeds skips update vae",
    "ranks": "errors interruption lit",
    "pictures.__init__": "",
    "pictures.sheet": "atomic",
    "pictures.gallery": "data.batches data.dataset elbo networks* pictures.sheet representation seeds vae",
    "storage": "runs tensors vae",
    "board": "",
    "divergence": "metrics representation runs storage tensors vae",
    "callbacks": "divergence evaluation.order_of_learning lit pictures.* representation tensors vae",
    "checkpoints": "atomic data.moments history interruption lit runs storage tensors",
    "report.__init__": "",
    "report.settings": "",
    "report.statistics": "",
    "report.collect": "report.settings runs",
    "report.ranking": "report.collect report.statistics",
    "report.ranked_table": "report.collect report.curves report.ranking report.statistics",
    "report.answer": "report.collect report.ranked_table report.ranking report.statistics",
    "report.effects": "report.settings report.statistics",
    "report.cost": "report.collect",
    "report.curves": "report.collect",
    "report.reproduce": "report.collect report.settings",
    "report.sheets": "report.collect",
    "report.svg": "",
    "report.figures": "report.curves report.svg",
    "report.section": "report.*",
    "report.page": "atomic report.* runs",
    "report.advantage": "report.matching report.proportions report.statistics",
    "report.claims": "report.collect report.hypotheses report.statistics runs",
    "report.hypotheses": "report.advantage report.collect report.matching report.reasons report.statistics",
    "report.matching": "report.collect runs",
    "report.proportions": "report.statistics",
    "report.reasons": "report.advantage report.collect report.matching report.statistics",
    "report.verdict_plot": "report.hypotheses report.matching report.svg",
    "report.table": "report.* runs",
    "job": ALL_BUT_HYDRAS,
    "commandline": "errors lock report.* runs study",
    "benchmark.__init__": "",
    "benchmark.basis": "benchmark.clock data.moments scatter",
    "benchmark.clock": "",
    "benchmark.commands": "benchmark.clock history",
    "benchmark.marked": "lit",
    "benchmark.parts": "benchmark.* runs",
    "benchmark.rivals": "benchmark.clock",
    "benchmark.training": "*",
    "build": "*",
    "loading": "build data.dataset errors runs storage vae",
    "plan": "build commandline errors runs",
    "turn": "*",
    "launchers": "interruption ledger turn",
    "sweep": "build commandline errors interruption launchers ledger plan runs turn",
}
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "base", "manager", "misc"}
MAX_FUNCTION_LINES = 40
MAX_FILE_LINES = 300


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


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


every_module = pytest.mark.parametrize("module", FILES)
every_file = pytest.mark.parametrize("path", EVERY_FILE.values(), ids=EVERY_FILE)


def test_every_module_is_placed():
    assert sorted(ALLOWED) == sorted(FILES)


@every_module
def test_imports_point_one_way(module):
    patterns = ALLOWED[module].split()
    found = project_imports(FILES[module])
    assert {name for name in found if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)} == set()


def test_no_imports_in_a_circle():
    graph = {module: project_imports(path) - {module} for module, path in FILES.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(FILES)


def test_the_reader_of_imports_reads_them():
    """The rules above would hold of files in which nothing is found."""
    assert {"job", "data.module", "runs"} <= project_imports(FILES["build"])
    assert {"pictures.gallery", "runs"} <= project_imports(FILES["job"])  # `from svhn_vae.pictures import gallery`
    assert {"hydra", "omegaconf", "torch"} <= libraries(FILES["build"])


@every_module
def test_only_what_reads_commands_and_configurations_knows_hydra(module):
    known = {"hydra", "omegaconf"} & libraries(FILES[module])
    assert module in KNOW_HYDRA or not known


@pytest.mark.parametrize(
    "module",
    [name for name in FILES if name in ("atomic", "ledger", "lock", "runs", "study") or name.startswith("report.")],
)
def test_reports_are_light(module):
    assert {"torch", "lightning", "hydra", "omegaconf"}.isdisjoint(libraries(FILES[module]))


@every_file
def test_nothing_is_unpickled(path):
    assert UNPICKLERS.isdisjoint(libraries(path))
    assert "torch.load" not in set(imports(path))  # it is called by its full name, where the next lines see it
    for call in calls(path):
        where = f"{path}:{call.lineno}: {ast.unparse(call)}"
        name = ast.unparse(call.func)
        reads_a_checkpoint = any(keyword.arg == "ckpt_path" for keyword in call.keywords)
        if name == "torch.load" or name.endswith("load_from_checkpoint") or reads_a_checkpoint:
            assert says(call, "weights_only", True), where
        assert not any(keyword.arg == "allow_pickle" for keyword in call.keywords), where


@every_file
def test_names_say_something(path):
    assert NAMES_THAT_SAY_NOTHING.isdisjoint(path.relative_to(SRC).with_suffix("").parts)


@every_file
def test_functions_are_short(path):
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


@every_file
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
