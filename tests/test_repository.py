"""What no single notebook can show: the repository as a whole keeps its own rules."""

import ast
import base64
import io
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from functools import cache
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NBS, PACKAGE = ROOT / "nbs", ROOT / "aimt"
ROWS = [  # lowest first; a section imports from lower rows only
    {"core"},
    {"data", "metrics"},
    {"models"},
    {"train"},
    {"evaluate", "explain", "generate", "decide", "monitor"},
    {"deploy"},
    {"jobs"},
    {"cli", "apps"},
]
ROW = {section: i for i, row in enumerate(ROWS) for section in row}
ROOMS = {  # inside a section, lowest first: a room imports from earlier rooms only
    "data": ["io", "table", "series", "checks", "split", "text", "image", "audio", "music", "video", "design", "sources"],
    "models": ["layers", "flow", "text", "image", "audio", "music", "video", "design", "trees", "table", "series"],
    "train": ["loop", "networks", "table"],
    "metrics": ["generation"],
    "evaluate": ["table", "text", "generation"],
    "explain": ["networks"],
    "decide": ["generators"],
    "generate": ["text", "audio", "image", "music", "video", "design"],
    "deploy": ["report", "generators", "serve", "export", "studio"],
    "jobs": ["shared", "families", "generators", "steps", "kinds", "verbs", "operate", "studio"],
}
MOST_MODULES = 16  # in a room
MODULE_LINES, CELL_LINES = 500, 60
QUICK_SECONDS = 110  # CPU time of the pages of `pytest -m quick`
UNTYPED_LIMIT = 60  # public functions and methods that take or return a `dict[str, Any]`
NOTEBOOK_LIMIT, OUTPUTS_LIMIT, TREE_LIMIT = 300_000, 5_600_000, 27_000_000  # bytes: a notebook, all stored outputs, a clone without history
FIGURE_WIDTH, FIGURE_DPI = 1000, 100  # pixels, pixels per inch
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_METHODS = {"read_pickle", "to_pickle", "unsafe_load", "load_source"}
FOREIGN_PATH = re.compile(r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+|tmp/\w+)\b")


def settings() -> dict[str, str]:
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def lines(text: str) -> list[str]:
    return [x.strip() for x in text.splitlines() if x.strip()]


def notebooks() -> list[Path]:
    return sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def cells(path: Path) -> list[dict]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c | {"source": "".join(c["source"])} for c in found]


@cache
def modules() -> dict[str, Path]:
    """Module name -> the notebook that exports it."""
    found = {}
    for path in notebooks():
        for cell in cells(path):
            m = re.search(r"^#\|\s*default_exp\s+(\S+)", cell["source"], flags=re.M)
            if m and cell["cell_type"] == "code":
                found[f"aimt.{m[1]}".removesuffix(".__init__")] = path
    return found


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def place(path: Path) -> tuple[int, int, int]:
    """Where a notebook stands in the order of imports: row of its section, room, number."""
    section, *rooms = path.relative_to(NBS).parts[:-1]
    return ROW[section], ROOMS[section].index(rooms[0]) + 1 if rooms else 0, int(path.name[:2])


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=name_of)


# --- metadata -------------------------------------------------------------------------------------------------------


def test_pyproject_repeats_settings_faithfully():
    ini, toml = settings(), tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, nbdev = toml["project"], toml["tool"]["nbdev"]
    assert project["name"] == ini["lib_name"]
    assert project["description"] == ini["description"]
    assert project["requires-python"] == f">={ini['min_python']}"
    assert project["urls"]["Repository"] == ini["git_url"]
    assert project["urls"]["Documentation"] == f"{ini['doc_host']}{ini['doc_baseurl']}/"
    assert (nbdev["lib_path"], nbdev["nbs_path"], nbdev["doc_path"]) == (ini["lib_path"], ini["nbs_path"], ini["doc_path"])
    assert toml["tool"]["ruff"]["target-version"] == "py" + ini["min_python"].replace(".", "")


def test_requirements_are_ranges_and_extras_add_up():
    ini = settings()
    extras = {k.removesuffix("_requirements"): lines(v) for k, v in ini.items() if k.endswith("_requirements")}
    for requirement in lines(ini["requirements"]) + [r for v in extras.values() for r in v]:
        assert "==" not in requirement and "+cpu" not in requirement, requirement
    for name in extras.keys() - {"docs", "dev", "lint", "all"}:
        assert set(extras[name]) <= set(extras["all"]), f"the extra 'all' lacks what '{name}' has"
        assert set(extras[name]) <= set(extras["dev"]), f"the extra 'dev' lacks what '{name}' has"


def test_changelog_knows_this_version():
    assert f"## [{settings()['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_readme_commands_stand_alone():
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M | re.S)
    assert len(blocks) >= 2
    for block in blocks[:2]:
        assert len(lines(block)) == 1 and "-m venv .venv" in block, block
    assert "aimt train" in blocks[0] and "pytest" in blocks[1]


def test_readme_is_made_from_the_home_notebook(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import readme

    made = readme.readme(readme.Index(readme.notebooks(), NBS, "aimt"))
    assert made == (ROOT / "README.md").read_text(encoding="utf-8"), "run `python docs/readme.py`"


# --- notebooks ------------------------------------------------------------------------------------------------------


def test_notebooks_are_small():
    sizes = {name_of(p): p.stat().st_size for p in notebooks()}
    assert not {k: v for k, v in sizes.items() if v > NOTEBOOK_LIMIT}
    outputs = {name_of(p): sum(len(json.dumps(c.get("outputs", []), ensure_ascii=False)) for c in cells(p)) for p in notebooks()}
    assert sum(outputs.values()) < OUTPUTS_LIMIT, sorted(outputs.items(), key=lambda item: -item[1])[:5]


def test_tracked_files_are_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a clone")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert sum(f.stat().st_size for f in files if f.is_file()) < TREE_LIMIT


@each([p for p in notebooks() if '"image/png"' in p.read_text(encoding="utf-8")])
def test_stored_figures_are_small(path):
    """Figures are stored as `aimt.core.plot_style` draws them: a palette, 100 dpi, as wide as a page."""
    for output in (o for c in cells(path) for o in c.get("outputs", [])):
        if png := output.get("data", {}).get("image/png"):
            image = Image.open(io.BytesIO(base64.b64decode("".join(png))))
            assert image.mode == "P" and image.width <= FIGURE_WIDTH, "draw it with `new_figure`"
            assert round(image.info.get("dpi", (0, 0))[0]) == FIGURE_DPI, "run the notebook again with `nbdev-test --save`"


@each([p for p in notebooks() if p.parent != NBS])
def test_notebook_is_in_good_order(path):
    assert re.fullmatch(r"\d\d_[a-z][a-z0-9_]*\.ipynb", path.name)
    section, *rooms = path.relative_to(NBS).parts[:-1]
    assert len(rooms) <= 1 and (not rooms or rooms[0] in ROOMS[section])
    first = cells(path)[0]
    assert first["cell_type"] == "markdown" and re.match(r"# \S", first["source"]), "a notebook begins with its title"
    assert re.search(r"^> \S", first["source"], flags=re.M), "under the title stands a promise: > ..."
    for cell in (c for c in cells(path) if c["cell_type"] == "code"):
        long = [x for x in cell["source"].splitlines() if len(x) > 160]
        assert not long, f"over 160 characters: {long}"
        assert not re.search(r"\n#\|\s*(export|hide|default_exp)", cell["source"].lstrip()) or cell["source"].startswith("#|")
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            shown = json.dumps([output.get("text", ""), output.get("data", {}).get("text/plain", "")])
            assert not FOREIGN_PATH.search(shown), f"a path of one machine in an output: {shown[:200]}"


def test_rooms_are_small_and_numbered_without_ties():
    rooms: dict[Path, list[str]] = {}
    for path in notebooks():
        rooms.setdefault(path.parent, []).append(path.name[:2])
    for room, numbers in rooms.items():
        assert len(numbers) == len(set(numbers)), f"{name_of(room)}: two notebooks have one number"
        exported = [p for p in modules().values() if p.parent == room]
        assert len(exported) <= MOST_MODULES, f"{name_of(room)} has {len(exported)} modules"


@each([p for p in modules().values() if p.parent.name not in ("cli",)])
def test_module_is_named_after_its_notebook(path):
    exported = next(m for m, p in modules().items() if p == path)
    topic = re.sub(r"^\d+_", "", path.stem)
    room = ".".join(path.relative_to(NBS).parts[:-1])
    assert exported in (f"aimt.{room}.{topic}", "aimt")


def test_every_module_comes_from_a_notebook():
    for file in PACKAGE.rglob("*.py"):
        if file.name == "_modidx.py" or (file.name == "__init__.py" and file.parent != PACKAGE):
            continue
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        assert name in modules(), f"{name_of(file)} has no notebook"
        assert "AUTOGENERATED! DO NOT EDIT!" in file.read_text(encoding="utf-8")


def test_modules_are_short():
    lengths = {name_of(p): len(p.read_text(encoding="utf-8").splitlines()) for p in PACKAGE.rglob("*.py") if p.name != "_modidx.py"}
    assert not {k: v for k, v in lengths.items() if v > MODULE_LINES}, "a second big idea gets a notebook of its own"


@each(notebooks())
def test_code_cells_are_short(path):
    """A long cell holds a single definition or statement, which cannot be divided."""
    for cell in (c for c in cells(path) if c["cell_type"] == "code"):
        code = [x for x in cell["source"].strip().splitlines() if not x.startswith("#|")]
        assert len(code) <= CELL_LINES or len(ast.parse("\n".join(code)).body) == 1, f"divide the cell of {len(code)} lines: {code[0]}"


def public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The public functions of a module, and the public methods of its public classes."""
    for node in body:
        if not getattr(node, "name", "_").startswith("_"):
            if isinstance(node, ast.ClassDef):
                yield from public_functions(node.body)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    of = function.args
    return " ".join(ast.unparse(x) for x in [*(a.annotation for a in of.posonlyargs + of.args + of.kwonlyargs), function.returns] if x)


def test_public_functions_have_typed_contracts():
    """What goes in and comes out has a type that names its fields; a `dict[str, Any]` is the exception."""
    untyped = [
        f"{name_of(path)}: {function.name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for function in public_functions(ast.parse(path.read_text(encoding="utf-8")).body)
        if "dict[str, Any]" in annotations(function)
    ]
    assert len(untyped) < UNTYPED_LIMIT, "\n".join(untyped)


READ = set(  # constants that no code but their own module uses, and that a person may want to read
    """AGGREGATES BASELINES CORE_PACKAGES DEFAULT_MIRROR DELIMITERS EVERY EXTRA_PACKAGES GPU_SOURCES JSON_SUFFIXES LINE_LIMIT MAX_PIXELS
    MAX_SECONDS MAX_SIDE METRIC OBJECTIVES RUN_FORMAT STRATEGIES TEXT_SUFFIXES TRENDS""".split()
)


def test_constants_of_one_module_are_private():
    """What a module exports is used by another module, by a test or in a page; a constant of its own begins with an underscore."""
    exports = {}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assigned = [
            t for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign) for t in getattr(n, "targets", [getattr(n, "target", 0)])
        ]
        exports[path] = [t.id for t in assigned if isinstance(t, ast.Name) and re.fullmatch("[A-Z][A-Z0-9_]*", t.id)]
    others = [p for folder in ("tests", "docs", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    code = {path: path.read_text(encoding="utf-8").partition("\n# %%")[2] for path in exports}
    shown = [c["source"] for p in notebooks() for c in cells(p) if not c["source"].lstrip().startswith("#| export")]
    words = {path: set(re.findall(r"\b[A-Z][A-Z0-9_]*\b", text)) for path, text in code.items() if path.name != "_modidx.py"}
    outside = {w for text in [*shown, *(p.read_text(encoding="utf-8") for p in others)] for w in re.findall(r"\b[A-Z][A-Z0-9_]*\b", text)}
    for path, names in exports.items():
        elsewhere = outside.union(*(found for other, found in words.items() if other != path))
        alone = set(names) - elsewhere - READ
        assert not alone, f"{name_of(path)} alone uses {', '.join(sorted(alone))}: begin the names with an underscore"


def test_public_names_agree():
    """`aimt.__all__`, `dir(aimt)`, the table of names, and the stub say the same, and every name is there."""
    import aimt
    from aimt.core.commands import NAMES, VERBS

    public = set(aimt.__all__)
    assert public == {*VERBS, *NAMES} and len(aimt.__all__) == len(public)
    sections = {n for n in dir(aimt) if f"aimt.{n}" in sys.modules}
    assert {n for n in dir(aimt) if not n.startswith("_")} == public | sections
    assert {n for n in public if getattr(aimt, n, None) is None} == set()
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    said = {n.name for n in stub.body if isinstance(n, ast.FunctionDef)}
    said |= {a.asname for n in stub.body if isinstance(n, ast.ImportFrom) for a in n.names if a.asname}
    listed = next(ast.literal_eval(n.value) for n in stub.body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__")
    assert said == public == set(listed)


def test_the_quick_choice_has_a_measured_page_of_every_room():
    from conftest import SECONDS, quick_pages

    seconds, chosen = json.loads(SECONDS.read_text(encoding="utf-8")), quick_pages()
    rooms = {p.parent.relative_to(NBS).as_posix() for p in notebooks() if p.parent != NBS}
    assert {page.rpartition("/")[0] for page in chosen} == rooms
    unknown = sorted(chosen - seconds.keys())
    assert not unknown, f"measure them: pytest --measure tests/test_notebooks.py -k '{' or '.join(unknown)}'"
    assert sum(seconds[page] for page in chosen) < QUICK_SECONDS
    gone = [name for name in seconds if not (ROOT / name.partition("::")[0] if "::" in name else NBS / f"{name}.ipynb").exists()]
    assert not gone, f"these pages and files have gone or have another name: {gone}"


def test_every_file_keeps_tests_in_the_first_part():
    """A test in the second part is never all that there is of a file: its name without what it is called with counts once."""
    from conftest import long_ones

    alone = []
    long = {name.partition("[")[0] for name in long_ones()}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        names = {
            f"{name_of(path)}::{n.name}" for n in ast.parse(path.read_text(encoding="utf-8")).body if n.__class__.__name__ == "FunctionDef"
        }
        tests = {name for name in names if name.partition("::")[2].startswith("test_")}
        alone += [name_of(path)] if len(tests) > 1 and tests <= long else []
    assert not alone, f"nothing of these files is in the first part: {alone}"


# --- imports --------------------------------------------------------------------------------------------------------


def imported(tree: ast.AST, module: str) -> set[str]:
    """The modules of aimt that a module imports, wherever in its text."""
    found, known = set(), modules()
    package = module.split(".") if module == "aimt" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(x for x in (base, node.module) if x)
            found |= {f"{source}.{a.name}" if f"{source}.{a.name}" in known else source for a in node.names}
    return {m for m in found if m in known and m != "aimt"}


def test_imports_go_down_and_back_only():
    """Sections import lower rows; inside one, rooms import earlier rooms, and notebooks smaller numbers. Lazy imports count too."""
    known, wrong = modules(), []
    for module, path in known.items():
        file = ROOT / Path(*module.split("."))
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        for other in imported(ast.parse(file.read_text(encoding="utf-8")), module):
            target = known[other]
            here, there = path.relative_to(NBS).parts[0], target.relative_to(NBS).parts[0]
            fine = place(target) < place(path) if here == there else ROW[there] < ROW[here]
            if not fine:
                wrong.append(f"{name_of(path)} imports {name_of(target)}")
    assert not wrong, "\n".join(wrong)


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


@each(sorted(PACKAGE.rglob("*.py")))
def test_nothing_that_is_loaded_can_run_code(path):
    """No pickle and its kin, no eval: a model or a run from a stranger is data and stays data."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            assert not {a.name.split(".")[0] for a in node.names} & (UNSAFE_MODULES - {"joblib"}), where
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert (node.module or "").split(".")[0] not in UNSAFE_MODULES - {"joblib"}, where
        elif isinstance(node, ast.Call):
            name, options = called(node), {k.arg: ast.unparse(k.value) for k in node.keywords}
            last = name.rpartition(".")[2]
            assert name not in UNSAFE_CALLS and last not in UNSAFE_METHODS, f"{where}: {name}"
            assert not (last == "eval" and node.args), f"{where}: {name} of a text"
            assert not name.startswith(tuple(f"{m}.load" for m in UNSAFE_MODULES)), f"{where}: {name}"
            assert options.get("allow_pickle") != "True", f"{where}: allow_pickle"
            assert name != "torch.load" or options.get("weights_only") == "True", f"{where}: torch.load"


# --- the wheel ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel, built from a copy of what it needs."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    copytree(PACKAGE, source / "aimt", ignore=ignore_patterns("__pycache__"))
    for name in ("setup.py", "settings.ini", "pyproject.toml", "README.md", "MANIFEST.in", "LICENSE"):
        copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode and re.search(r"Could not find a version|connection|No matching distribution", done.stderr):
        pytest.skip("no package registry can be reached")
    assert not done.returncode, done.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(wheel.namelist())
    wanted = {p.relative_to(ROOT).as_posix() for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert wanted <= names, wanted - names
    assert {n.split("/")[0] for n in names} == {"aimt", f"aimt-{settings()['version']}.dist-info"}
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert sum(i.file_size for i in wheel.infolist()) < 7_500_000  # unpacked


def test_wheel_metadata(wheel):
    info = f"aimt-{settings()['version']}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata and "Requires-Python: >=3.11" in metadata
    for requirement in lines(settings()["requirements"]):
        assert f"Requires-Dist: {requirement}" in metadata
    assert "aimt = aimt.cli.main:main" in wheel.read(f"{info}/entry_points.txt").decode()
