"""The house stands as drawn: imports point down, the drawing is the tree, the front door is light and complete."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ovseg"
SIDE = "side"


def drawing() -> dict[str, tuple[str, int]]:
    """Every room of README's drawing with its layer and its place in reading order ('clip.text' -> ('2', 12))."""
    block = re.search(r"```text\n(ovseg/\n.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert block, "README draws the house"
    rooms: dict[str, tuple[str, int]] = {}
    folder = ""
    for line in block.group(1).splitlines()[1:]:
        found = re.match(r"  (\s*\S.*?)  +(\d|side)(?:\s|$)", line)
        if not found:
            break
        if not line.startswith("   "):
            folder = ""
        for name in found.group(1).split():
            if name.endswith("/") and folder:  # a room inside a room; what follows is the outer one's again
                rooms[f"{folder}.{name[:-1]}"] = (found.group(2), len(rooms))
            elif name.endswith("/"):
                folder = name[:-1]
                rooms[folder] = (found.group(2), len(rooms))
            else:
                stem = name.removesuffix(".py")
                inside = folder and not (PACKAGE / name).is_file()
                rooms[f"{folder}.{stem}" if inside else stem] = (found.group(2), len(rooms))
    return rooms


def modules() -> dict[str, Path]:
    """Every module of the package by its name below ovseg; a package by its folder's name."""
    out = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        out[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return out


def imports(path: Path) -> set[str]:
    """Rooms of ovseg that a file imports anywhere in it, as names below ovseg; for type checkers alone as well."""
    out: set[str] = set()
    known = modules()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            out |= {alias.name.removeprefix("ovseg.") for alias in node.names if alias.name.startswith("ovseg.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ovseg":
            base = (node.module or "").removeprefix("ovseg").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                out.add(inner if inner in known else base or "__init__")
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return out


def test_drawing_in_readme_is_the_tree() -> None:
    drawn, real = set(drawing()), set(modules())
    assert {name for name in real if name not in drawn and name.rpartition(".")[0] not in drawn} == set()
    assert drawn - real == set()


def test_imports_point_down_or_left() -> None:
    """A file may import a lower layer, or of its own layer what is drawn before it; side rooms see layers 0 and 1."""
    rooms, wrong = drawing(), []
    for name, path in modules().items():
        layer, place = rooms.get(name) or rooms[name.rpartition(".")[0]]
        for target in imports(path):
            if target == name.rpartition(".")[0] or target.rpartition(".")[0] == name:
                continue  # a room and its own parts
            to_layer, to_place = rooms.get(target) or rooms[target.rpartition(".")[0]]
            if to_place == place:
                continue  # parts of a room that is drawn as one; cycles are another test's
            if layer == SIDE:
                fine = to_layer in ("0", "1") or (to_layer == SIDE and to_place < place)
            elif to_layer == SIDE:
                fine = int(layer) >= 4
            else:
                fine = int(to_layer) < int(layer) or (to_layer == layer and to_place < place)
            if not fine:
                wrong.append(f"{name} ({layer}) imports {target} ({to_layer})")
    assert wrong == []


def test_no_import_cycle() -> None:
    graph = {name: imports(path) & set(modules()) - {name} for name, path in modules().items()}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name not in done:
            for target in graph[name]:
                walk(target, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize("name", sorted(modules()))
def test_all_is_sorted_and_names_what_is_there(name: str) -> None:
    module = importlib.import_module("ovseg" if name == "__init__" else f"ovseg.{name}")
    listed = getattr(module, "__all__", None)
    if listed is None:
        assert not [key for key in vars(module) if not key.startswith("_")] or name == "__main__", "no __all__"
        return
    assert listed == sorted(listed) and len(set(listed)) == len(listed)
    for entry in listed:
        assert getattr(module, entry) is not None


def test_all_is_complete() -> None:
    """Every public function, class and table that a module defines is in its __all__."""
    for name, path in modules().items():
        if name in ("__init__", "__main__", "cli"):
            continue
        defined = set()
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                defined.add(node.name)
        module = importlib.import_module(f"ovseg.{name}")
        assert defined - set(getattr(module, "__all__", ())) == set(), name


def test_importing_ovseg_loads_no_network_library() -> None:
    code = (
        "import sys, ovseg; heavy = {'torch', 'open_clip', 'segment_anything', 'gradio', 'matplotlib', 'cv2', 'numpy'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); import ovseg.cli;"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "layer", ["types", "prompts", "geometry", "masks", "images", "weights", "draw", "export", "job"]
)
def test_nouns_arithmetic_and_side_rooms_need_no_torch(layer: str) -> None:
    code = f"import sys, ovseg.{layer}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_module_has_its_test() -> None:
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests").rglob("test_*.py")}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    lacking = {
        name
        for name, path in modules().items()
        if path.name not in ("__init__.py", "__main__.py")
        and name.rpartition(".")[2] not in tests
        and name.split(".")[0] not in folders - {"clip", "sam"}
        and not (name.count(".") > 1 and (ROOT / "tests" / Path(*name.split(".")[:-1])).is_dir())  # a room in a room
        and name not in ("clip.backbones", "clip.attention")
    }
    assert lacking == set()  # attention is tested in test_tower and test_golden, backbones in test_load


def test_version_is_one() -> None:
    import tomllib

    import ovseg

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == ovseg.__version__
