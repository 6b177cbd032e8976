"""What setup.py, Makefile and README promise is there."""

from __future__ import annotations

import ast
import re
import sys

from tests.helpers import REPOSITORY

# Import name to the name on the package index, where they differ.
DISTRIBUTION = {
    "cv2": "opencv-python",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "faster_coco_eval": "faster-coco-eval",
}


def text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def setup_lists() -> tuple[list[str], dict[str, list[str]]]:
    """REQUIRED and EXTRAS of setup.py, read without running it."""
    values = {
        node.targets[0].id: node.value
        for node in ast.parse(text("setup.py")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return ast.literal_eval(values["REQUIRED"]), ast.literal_eval(values["EXTRAS"])


def base_name(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement)[0].lower()


def test_everything_pet_imports_is_declared() -> None:
    required, extras = setup_lists()
    declared = {base_name(name) for name in [*required, *(name for group in extras.values() for name in group)]}
    for folder in ("pet", "tools"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for module in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"pet", "tests"}:
                    assert DISTRIBUTION.get(module, module) in declared, f"{path} imports {module}, which setup.py does not name"


def test_extras_of_the_contract_exist() -> None:
    required, extras = setup_lists()
    assert {"ocr", "track", "video", "export", "writers", "docs", "dev"} <= set(extras)
    assert "torch>=2.10" in required
    assert "tensorboard>=2.21" in required


def test_names_of_files_and_targets_in_the_makefile_and_the_readme_are_real() -> None:
    makefile, readme = text("Makefile"), text("README.md")
    quickstart = re.search(r"^QUICKSTART := (\S+)$", makefile, re.MULTILINE)[1]
    assert (REPOSITORY / "cfgs" / f"{quickstart}.yaml").is_file()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", readme + makefile)) <= targets
    named = re.findall(r"\]\(([^)#]+)\)|(tools/[\w/]+\.py)", readme)
    assert named
    for link, tool in named:
        assert (REPOSITORY / (link or tool)).exists(), link or tool


def test_yaml_of_the_readme_is_a_valid_experiment(tmp_path) -> None:
    from pet.engine.launch import check_config

    path = tmp_path / "mine.yaml"
    path.write_text(re.search(r"```yaml\n(.*?)```", text("README.md"), re.DOTALL)[1])
    cfg = check_config("tasks/cls", path, [])
    assert cfg.TRAIN.DATASETS == ("my_train",)
