"""What may import what, what an import may cost, and calls that must not appear."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, run_cli

LAYERS = {
    "utils": 0,
    "config": 1,
    **dict.fromkeys(("engine", "solver", "data", "evaluation", "analyser", "models", "visualization"), 2),
    **dict.fromkeys(("vision", "tasks", "projects", "apis", "doctor"), 3),
    "tools": 4,
}
DOMAINS = ("vision", "tasks", "projects")
# Storage is how metrics reach the log; it knows nothing about the rest of the engine.
SHARED = {"solver": "pet.engine.events", "evaluation": "pet.engine.events", "visualization": "pet.engine.events"}

COLLECTIVES = {
    "synchronize",
    "meet",
    "average_tensors",
    "run_evaluation",
    "gather",
    "all_gather",
    "broadcast",
    "agree_max",
    "broadcast_buffers",
    "barrier",
    "monitored_barrier",
    "all_reduce",
    "gather_object",
    "all_gather_object",
    "broadcast_object_list",
}
RANKS = {"is_main_process", "get_rank", "get_local_rank", "process_rank"}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 1)}"


# -------------------------------------------------------------------------------------------------- who may import


def imported_modules(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Every module of Pet that a file imports, also inside functions."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names if alias.name.split(".")[0] == "pet")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(path, node)}: write absolute imports"
            if (node.module or "").split(".")[0] == "pet":
                # "from pet.utils import comm" names a module, "from pet.utils.comm import gather" a function of one.
                yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def owner(module: str) -> tuple[str, str]:
    """Package below ``pet`` and, for tasks and projects, the domain: ``("tasks", "cls")``."""
    parts = [*module.split("."), "", ""]
    return parts[1], parts[2] if parts[1] in ("tasks", "projects") else ""


def forbidden(importer: str, imported: str) -> str:
    """Why ``importer`` may not import ``imported``; an empty string if it may."""
    package, domain = owner(importer)
    target, target_domain = owner(imported)
    if (package, domain) == (target, target_domain) or target not in LAYERS:
        return ""
    if target in ("tasks", "projects") and package != "tools":
        return "nothing but the tools imports pet.tasks and pet.projects"
    if LAYERS[target] < LAYERS[package] or (target == "vision" and package in DOMAINS):
        return ""
    if imported.startswith(SHARED.get(package, "no such module")):
        return ""
    return f"pet.{target} is not to the left of {package}"


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sources("pet", "tools"):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        importer = ".".join(parts if parts[0] == "pet" else ("pet", *parts))
        for node, imported in imported_modules(path):
            reason = forbidden(importer, imported)
            if reason:
                wrong.append(f"{place(path, node)} imports {imported}: {reason}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("pet.config.node", "pet.utils.suggest", True),
        ("pet.utils.comm", "pet.config.base", False),
        ("pet.solver.ema", "pet.engine.events.get_event_storage", True),
        ("pet.solver.ema", "pet.engine.loop", False),
        ("pet.data.loader", "pet.engine.events", False),
        ("pet.tasks.cls.dataset", "pet.data.loader", True),
        ("pet.tasks.cls.dataset", "pet.tasks.det.dataset", False),
        ("pet.projects.a.model", "pet.vision.model", True),
        ("pet.models.heads", "pet.tasks.cls.config", False),
        ("pet.tools.train_net", "pet.tasks.cls", True),
    ],
)
def test_the_rule_itself(importer: str, imported: str, allowed: bool) -> None:
    assert (forbidden(importer, imported) == "") == allowed


# --------------------------------------------------------------------------------------------------- what it costs

_LOADED = "\nimport sys\nprint('loaded:', *sorted(set(m.split('.')[0] for m in sys.modules)))"
_RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("status:", end.code)
"""


def loaded(code: str, *arguments: str | Path) -> tuple[set[str], str]:
    """Top-level packages that are loaded after ``code`` ran, and everything it printed."""
    done = run_cli(["-c", code + _LOADED, *map(str, arguments)])
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("loaded:", 1)[1].split()), done.stdout + done.stderr


def test_import_budget_of_the_packages() -> None:
    packages = "import pet, pet.engine, pet.utils, pet.config, pet.engine.launch, pet.utils.suggest, pet.utils.registry, pet.utils.logger"
    assert not loaded(packages)[0] & {"torch", "numpy", "cv2"}
    assert "torch" not in loaded("import pet.tasks.cls, pet.tasks.cls.config")[0]


def test_launcher_does_not_import_torch_to_answer_or_to_refuse(tmp_path: Path) -> None:
    typo = tmp_path / "cfgs" / "tasks" / "cls" / "typo.yaml"
    typo.parent.mkdir(parents=True)
    typo.write_text("SOLVER: {OPTIMISER: {BASE_LR: 0.1}}\n")
    for tool in ("tools/train_net_all.py", "tools/test_net_all.py"):
        for arguments, status, text in (
            (["--help"], 0, "--gpu_id"),
            (["--cfg", "cfgs/nowhere/x.yaml"], 2, "does not exist"),
            (["--cfg", str(typo)], 2, "SOLVER.OPTIMIZER"),
        ):
            packages, printed = loaded(_RUN, tool, *arguments)
            assert f"status: {status}" in printed
            assert text in printed
            assert "torch" not in packages, f"{tool} {arguments}"


@pytest.mark.parametrize("script", sources("tools"), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_help_of_a_script_loads_nothing_it_does_not_need(script: Path) -> None:
    packages, printed = loaded(_RUN, script.relative_to(REPOSITORY), "--help")
    assert "status: 0" in printed
    assert not packages & {"tensorboard", "cv2", "pycocotools", "matplotlib", "scipy", "timm", "torchvision", "fvcore"}


# ------------------------------------------------------------------------------------------- calls that must not be


def calls(node: ast.AST) -> Iterator[tuple[ast.Call, str, str]]:
    """Calls below ``node``: the node, the name before the last dot, and the last name."""
    for call in (found for found in ast.walk(node) if isinstance(found, ast.Call)):
        if isinstance(call.func, ast.Attribute):
            yield call, ast.unparse(call.func.value), call.func.attr
        elif isinstance(call.func, ast.Name):
            yield call, "", call.func.id


def depends_on_rank(test: ast.expr) -> bool:
    return any(name in RANKS for _, _, name in calls(test)) or any(
        isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).split(".")[-1] in ("rank", "local_rank", "is_main")
        for node in ast.walk(test)
    )


def rank_branches(tree: ast.AST) -> Iterator[ast.AST]:
    """Code that not every rank runs: the branches of a test on the rank, and what follows one that leaves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp) and depends_on_rank(node.test):
            yield from (node.body, node.orelse)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            for index, statement in enumerate(block if isinstance(block, list) else []):
                if isinstance(statement, ast.If | ast.While) and depends_on_rank(statement.test):
                    yield from (*statement.body, *statement.orelse)
                    if isinstance(statement.body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break):
                        yield from block[index + 1 :]


def collectives_in_rank_branches(tree: ast.AST) -> set[tuple[int, str]]:
    return {
        (call.lineno, name)
        for branch in rank_branches(tree)
        for call, base, name in calls(branch)
        if name in COLLECTIVES and base.split(".")[-1] in ("", "comm", "dist", "distributed")
    }


def test_no_collective_inside_rank_branch() -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line} calls {name} on some ranks only"
        for path in sources("pet", "tools")
        # The one module whose business it is: main_process_first makes the others wait.
        if path != REPOSITORY / "pet" / "utils" / "comm.py"
        for line, name in sorted(collectives_in_rank_branches(tree_of(path)))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("if comm.is_main_process():\n    comm.gather(x)", 1),
        ("if rank == 0:\n    pass\nelse:\n    dist.barrier()", 1),
        ("def f():\n    if not is_main_process():\n        return\n    synchronize()", 1),
        ("y = comm.gather(x) if get_rank() == 0 else None", 1),
        ("parts = comm.gather(x)\nif comm.is_main_process():\n    write(parts)", 0),
        ("if comm.get_world_size() > 1:\n    comm.synchronize()", 0),
        ("if comm.is_main_process():\n    scores.gather(1, index)", 0),
    ],
)
def test_the_search_for_collectives_itself(code: str, found: int) -> None:
    assert len(collectives_in_rank_branches(ast.parse(code))) == found


def test_calls_that_must_not_appear() -> None:
    wrong = []
    for path in sources("pet", "tools"):
        tree = tree_of(path)
        wrong += [
            f"{place(path, call)} calls {base}.{name}"
            for call, base, name in calls(tree)
            # imread accepts truncated files; .cuda() ties the code to one kind of device.
            if (base, name) == ("cv2", "imread") or (base and name == "cuda")
        ]
        names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "NotImplementedError")
        wrong += [f"{place(path, node)} has a part that is not implemented" for node in names]
        handlers = (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type is None)
        wrong += [f"{place(path, node)} has a bare except" for node in handlers]
    assert not wrong, "\n".join(wrong)


OUTDATED = {
    "torch.cuda.amp",
    "torch.jit",
    "np.float",
    "np.int",
    "np.bool",
    "np.object",
    "six",
    "_LRScheduler",
    "torch.utils.model_zoo",
}


def outdated_names(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Names of old interfaces, written out or imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and (name := ast.unparse(node)) in OUTDATED:
            yield node, name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            names = {module, *(alias.name for alias in node.names), *(f"{module}.{alias.name}" for alias in node.names)}
            yield from ((node, name) for name in names & OUTDATED)


def test_outdated_interfaces_and_code_from_text_do_not_appear() -> None:
    wrong = []
    for path in sources("pet", "tools"):
        tree = tree_of(path)
        wrong += [f"{place(path, node)} uses {name}" for node, name in outdated_names(tree)]
        wrong += [
            f"{place(path, call)} calls {name}()" for call, base, name in calls(tree) if not base and name in ("eval", "exec")
        ]
    assert not wrong, "\n".join(wrong)


def test_no_personal_path_and_no_print_of_a_developer_is_left() -> None:
    answers = {
        "pet/config/reference.py",
        "pet/doctor.py",
        "pet/engine/command.py",
        "pet/engine/launch.py",
        "pet/engine/elastic.py",
        "pet/engine/setup.py",
    }
    wrong = []
    for path in sources("pet", "tools"):
        tree = tree_of(path)
        name = path.relative_to(REPOSITORY).as_posix()
        if name not in answers and not name.startswith("tools/"):  # tools print their answers
            wrong += [
                f"{place(path, call)} prints; use the logger" for call, base, name in calls(tree) if (base, name) == ("", "print")
            ]
        texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
        wrong += [
            f"{place(path, node)}: {node.value}"
            for node in texts
            if re.search(r"(?<![\w.])/(home|Users|root|mnt|data)/", node.value)
        ]
    assert not wrong, "\n".join(wrong)


def test_importing_configures_no_logging() -> None:
    code = (
        "import logging, pet.engine.setup\nprint('handlers:', logging.getLogger('pet').handlers + logging.getLogger().handlers)"
    )
    assert "handlers: []" in loaded(code)[1]
