"""Tools around a trained model do what they print, and answer a wrong command with one clear message."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from pet.engine.checkpoint_file import write_checkpoint
from pet.engine.command import open_config
from tests.helpers import run_cli
from tests.shell import Ended, Shell, check
from tests.user_sets import KEYPOINT, MASK, NO_DET, SEMSEG, TINY, classes

CLS = """
MISC: {DEVICE: cpu, CUDNN: False}
VIS: {ENABLED: False}
DATA:
  LOADER_THREADS: 0
  CATALOG: {drawn: {TYPE: shapes_dataset, NUM_SHAPES: 1, NUM_IMAGES: 40, IMAGE_SIZE: 32}}
TRAIN: {DATASETS: [drawn], BATCH_SIZE: 8}
TEST: {DATASETS: [drawn], IMS_PER_GPU: 20}
MODEL: {BACKBONE: cifar_resnet8, BACKBONE_OPTIONS: {width: 8}, GLOBAL_HEAD: {CLS: {NUM_CLASSES: 10}}}
SOLVER: {OPTIMIZER: {BASE_LR: 0.1}, SCHEDULER: {TOTAL_EPOCHS: 4, STEPS: [2, 3], WARM_UP_EPOCHS: 1, WARM_UP_FACTOR: 0.1}}
"""
RESNET50 = "cfgs/tasks/cls/ImageNet/resnet50.yaml"
RETINANET = "cfgs/vision/COCO/retinanet_R-50-FPN_1x.yaml"


@pytest.fixture
def cls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys, CLS)


@pytest.fixture
def vision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys, TINY, "vision")


def checkpoint(shell: Shell, *options: str, ema: bool = False, ema_tested: bool = True) -> Path:
    """A checkpoint of random weights as a run writes it; its averages are other weights."""
    opened = open_config(shell.yaml, options)
    model = opened.domain_module.GeneralizedCNN(opened.cfg, is_train=False)
    parts = ("global_head.det", "global_head.semseg", "roi_head")
    heads = [weight for name, weight in model.named_parameters() if name.startswith(parts) and weight.ndim > 1]
    with torch.no_grad():
        for weight in heads:  # scores that differ clearly
            weight.normal_(0, 1.2 / weight[0].numel() ** 0.5)
    state = model.state_dict()
    averages = {name: t + 0.3 * torch.randn_like(t) if t.is_floating_point() and t.ndim > 1 else t for name, t in state.items()}
    meta = {
        "class_names": [f"shape {i}" for i in range(10)],
        "iteration": 7,
        "world_size": 1,
        "config": f"EVAL: {{EMA: {str(ema_tested).lower()}}}\n",
    }
    more = {"ema": {"updates": 7, "weights": averages}} if ema else {}
    path = shell.folder / "trained.pth"
    write_checkpoint({"format": 2, "model": state, "optimizer": {"state": {0: {"m": torch.zeros(50_000)}}}, **more, "meta": meta}, path)
    return path


def accuracy(ended: Ended) -> tuple[str, str]:
    assert ended.status == 0, ended.text
    return re.findall(r"top1 ([\d.]+), top5 ([\d.]+)", ended.text)[-1]


# ------------------------------------------------------------------------------------------------------- get_flops


def test_resnet50_has_the_published_size_and_cost(cls: Shell) -> None:
    ended = cls.script("tools/get_flops.py", RESNET50)
    check(ended, 0, "input shape    1 x 3 x 224 x 224", "parameters     25.557 M", "not counted    relu x49")
    flops = float(re.findall(r"FLOPs +([\d.]+) G", ended.text)[0])
    assert abs(flops / 4.12 - 1) < 0.01  # as the model zoos of torchvision (4.09) and mmclassification (4.12) print it


def test_cost_follows_the_shape_and_parameters_do_not(cls: Shell) -> None:
    texts = [cls.script("tools/get_flops.py", RESNET50, "--shape", *shape).text for shape in (["224"], ["448", "224"])]
    small, large = (float(re.findall(r"FLOPs +([\d.]+) G", text)[0]) for text in texts)
    assert large / small == pytest.approx(2, rel=0.01)
    assert all("25.557 M" in text for text in texts)


def test_a_detector_is_counted_at_the_size_of_its_test(cls: Shell) -> None:
    check(cls.script("tools/get_flops.py", RETINANET), 0, "1 x 3 x 800 x 1280", "FLOPs          238.5")


@pytest.mark.parametrize(
    ("shape", "answer"), [(["1", "2", "3"], "allowed: one side"), (["0"], "allowed: one side"), (["100"], "does not take an image")]
)
def test_a_shape_that_cannot_be_is_told(cls: Shell, shape: list[str], answer: str) -> None:
    config = "cfgs/tasks/cls/ImageNet/vit_b16.yaml"
    check(cls.script("tools/get_flops.py", config, "--shape", *shape), 2, "error: ", answer)


# --------------------------------------------------------------------------------------------------- publish_model


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_published_weights_are_small_named_by_their_hash_and_test_the_same(cls: Shell, suffix: str) -> None:
    trained = checkpoint(cls, ema=True)
    check(cls.script("tools/publish_model.py", str(trained), str(cls.folder / f"depth{suffix}")), 0, "averaged weights", "optimizer")
    (path,) = cls.folder.glob("depth-*")
    assert path.name == f"depth-{sha256(path.read_bytes()).hexdigest()[:8]}{suffix}"
    assert path.stat().st_size < trained.stat().st_size / 2
    words = ("TEST.WEIGHTS", str(trained)), ("TEST.WEIGHTS", str(path)), ("TEST.WEIGHTS", str(trained), "EVAL.EMA", "False")
    own, published, without = (accuracy(cls.test(*weights)) for weights in words)
    assert published == own != without


def test_a_published_file_loads_safely_with_its_class_names(cls: Shell) -> None:
    trained = checkpoint(cls)
    check(cls.script("tools/publish_model.py", str(trained), str(cls.folder / "a.b")), 0)
    (path,) = cls.folder.glob("a.b-????????.pth")
    content = torch.load(path, weights_only=True)
    assert content.keys() == {"model", "meta"}
    assert content["meta"]["class_names"][3] == "shape 3"
    assert "world_size" not in content["meta"]


def test_the_choice_of_averages_follows_the_run_unless_it_is_said(cls: Shell) -> None:
    trained = checkpoint(cls, ema=True, ema_tested=False)
    out = str(cls.folder / "x")
    check(cls.script("tools/publish_model.py", str(trained), out), 0, ": weights,")
    check(cls.script("tools/publish_model.py", str(trained), out, "--ema"), 0, "averaged weights (EMA)")
    plain = checkpoint(cls)
    check(cls.script("tools/publish_model.py", str(plain), out, "--ema"), 2, "has no averaged weights")


def test_damaged_input_is_not_published(cls: Shell) -> None:
    trained = checkpoint(cls)
    data = bytearray(trained.read_bytes())
    data[len(data) // 2] ^= 1
    trained.write_bytes(data)
    check(cls.script("tools/publish_model.py", str(trained), str(cls.folder / "x")), 2, "does not match its checksum")
    assert not list(cls.folder.glob("x*"))


# ------------------------------------------------------------------------------------------------------------ ckpt


def test_ckpt_tells_good_from_damaged_and_hostile_files(cls: Shell) -> None:
    trained = checkpoint(cls)
    cls.script("tools/publish_model.py", str(trained), str(cls.folder / "good.safetensors"))
    (good,) = cls.folder.glob("good-*")
    check(cls.script("tools/ckpt.py", "verify", str(trained), str(good)), 0, "matches trained.pth.sha256", "matches its name")
    cut, renamed, hostile = (cls.folder / name for name in ("cut.safetensors", "x-0123abcd.safetensors", "hostile.pth"))
    cut.write_bytes(good.read_bytes()[:-100])
    renamed.write_bytes(good.read_bytes())
    torch.save({"model": Trap(cls.folder / "trapped")}, hostile)
    ended = cls.script("tools/ckpt.py", "verify", str(good), str(cut), str(renamed), str(hostile))
    check(ended, 1, f"good     {good}", f"damaged  {cut}", "not what its name says", f"damaged  {hostile}")
    assert not (cls.folder / "trapped").exists()


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_ckpt_shows_what_a_checkpoint_holds(cls: Shell) -> None:
    trained = checkpoint(cls, ema=True)
    count = sum(tensor.numel() for tensor in torch.load(trained, weights_only=True)["model"].values())
    shown = cls.script("tools/ckpt.py", "show", str(trained))
    check(shown, 0, "optimizer", "ema", "iteration: 7", "shape 3", f"{count:,}", "global_head.cls.fc.weight", "(10, 32)")
    check(cls.script("tools/ckpt.py", "show", str(trained), "--tree"), 0, f"(all)  {count:,}", "    cls  330")


def test_ckpt_shows_meta_in_short_and_one_of_it_whole(cls: Shell) -> None:
    content = torch.load(checkpoint(cls), weights_only=True)
    config = "MODEL:\n  BACKBONE: lenet5\nTEST: {}\n"
    content["meta"] |= {"config": config, "versions": {"python": "3.11", "torch": "2.15"}, "losses": list(range(1000))}
    trained = str(cls.folder / "long.pth")
    torch.save(content, trained)
    shown = cls.script("tools/ckpt.py", "show", trained)
    check(shown, 0, "config: text of 3 lines", "versions: python 3.11, torch 2.15\n", "class_names: shape 0, ", " more\n")
    assert max(map(len, shown.text.splitlines()[1:])) <= 130, "behind the line of the file"
    assert cls.script("tools/ckpt.py", "show", trained, "--meta", "config").text == config
    check(cls.script("tools/ckpt.py", "show", trained, "--meta", "confg"), 2, "meta has no confg. Did you mean 'config'?")


def test_ckpt_diff_finds_every_kind_of_difference(cls: Shell) -> None:
    first, second = cls.folder / "a.pth", cls.folder / "b.pth"
    nan = torch.tensor([1.0, float("nan")])
    torch.save({"same": nan, "moved": torch.zeros(3), "grown": torch.zeros(2), "gone": torch.zeros(1)}, first)
    torch.save({"same": nan, "moved": torch.tensor([0, 0.5, 0]), "grown": torch.zeros(4), "new": torch.zeros(1)}, second)
    ended = cls.script("tools/ckpt.py", "diff", str(first), str(second))
    check(ended, 1, "first: gone", "second: new", "grown (2,) and (4,)", "moved, largest difference 0.5", "1 tensors are equal")
    check(cls.script("tools/ckpt.py", "diff", str(first), str(first)), 0, "4 tensors are equal, 0 have")


# ---------------------------------------------------------------------------------------------------- print_config


def test_the_printed_config_is_the_config(cls: Shell) -> None:
    ended = cls.script("tools/print_config.py", RETINANET, "TRAIN.BATCH_SIZE", "4", "--cfg-options", "MISC.SEED=5")
    assert ended.status == 0
    copy = cls.folder / "copy.yaml"
    copy.write_text(ended.text)
    assert open_config(copy).cfg == open_config(RETINANET, ["TRAIN.BATCH_SIZE", 4, "MISC.SEED=5"]).cfg
    check(cls.script("tools/print_config.py", RETINANET, "--explain", "TRAIN.BATCH_SIZE"), 0, "TRAIN.BATCH_SIZE = 16", "set by")
    changed = cls.script("tools/print_config.py", str(cls.yaml), "--diff")
    check(changed, 0, "TRAIN.BATCH_SIZE = 8", "mine.yaml")
    assert "TEST.RESIZE" not in changed.text


@pytest.mark.parametrize("words", [["cfgs/tasks/cls/MNIST/lenet.yaml"], [RESNET50, "TRAIN.BATCHSIZE", "4"], [RESNET50, "--dif"]])
def test_a_wrong_command_names_what_was_meant(cls: Shell, words: list[str]) -> None:
    check(cls.script("tools/print_config.py", *words), 2, "error: ", "Did you mean")


# -------------------------------------------------------------------------------------- analyze_logs, vis_scheduler


def log(folder: Path, *rows: dict[str, object], end: str = "") -> Path:
    folder.mkdir()
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return folder


def step(iteration: int, loss: float, time: float = 0.5) -> dict[str, object]:
    return {"iteration": iteration, "epoch": iteration / 2, "total_loss": loss, "lr": 0.1, "time": time, "data_time": time / 4}


def test_an_interrupted_run_counts_with_what_it_wrote_last(cls: Shell) -> None:
    run = log(cls.folder / "a", step(1, 9, 7), step(2, 8), step(3, 7), step(2, 5), step(3, 4, 1.0), end='{"iteration": 4, "tot')
    (run / "config.yaml").write_text("TRAIN: {BATCH_SIZE: 32}")
    ended = cls.script("tools/analyze_logs.py", "cal_train_time", str(run))
    check(ended, 0, "3 updates, 2 log rows", "mean 0.75 s, median 0.75 s", "25.0 %", "slowest epoch      2: 1 s", "42.667 images/s")


def test_curves_of_two_runs_are_drawn_in_one_panel_a_key(cls: Shell) -> None:
    runs = [log(cls.folder / name, step(1, 3), step(2, loss), {"iteration": 2, "epoch": 1, "eval": {"v/AP": 50}}) for name, loss in (("a", 1), ("b", 2))]
    out = cls.folder / "out" / "c.png"
    words = [*map(str, runs), "--keys", "total_loss", "AP", "--out", str(out)]
    check(cls.script("tools/analyze_logs.py", "plot_curve", *words), 0, f"Curves: {out}")
    picture = cv2.imread(str(out))
    assert picture.shape[0] == 2 * 250
    assert {(168, 104, 0), (0, 95, 204)} <= set(map(tuple, picture.reshape(-1, 3).tolist()))  # a line of each run, BGR


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--keys", "total_los"], "Did you mean 'total_loss'? There are: data_time, lr, time, total_loss"),
        (["--legend", "x", "y"], "need names of their own"),
    ],
    ids=["key", "legend"],
)
def test_curves_that_cannot_be_drawn_are_told(cls: Shell, words: list[str], answer: str) -> None:
    run = log(cls.folder / "a", step(1, 3))
    check(cls.script("tools/analyze_logs.py", "plot_curve", str(run), *words), 2, answer)
    check(cls.script("tools/analyze_logs.py", "speed", str(cls.folder / "none")), 2, "does not exist")


def test_the_drawn_learning_rate_is_that_of_the_training(cls: Shell) -> None:
    out = cls.folder / "lr.png"
    ended = cls.script("tools/vis_scheduler.py", str(cls.yaml), "--out", str(out), "--by-epoch")
    assert ended.status == 0, ended.text
    found = [(int(u), float(r), what) for u, r, what in re.findall(r"update +(\d+).* lr (\S+) +(.*)", ended.text)]
    after = "the last of the warm-up", "after the warm-up", "before a step", "after it", "before a step", "after it"
    updates, rates = (1, 5, 6, 10, 11, 15, 16, 20), (0.01, 0.082, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001)
    assert found == list(zip(updates, rates, ("the first update", *after, "the last update"), strict=True))
    assert cv2.imread(str(out)) is not None


def test_a_schedule_in_epochs_needs_the_data_or_their_number(cls: Shell) -> None:
    words = "tools/vis_scheduler.py", RESNET50, "--out", str(cls.folder / "lr.png")
    check(cls.script(*words, "DATA.ROOT", str(cls.folder)), 2, "give --iters-per-epoch N")
    check(cls.script(*words, "--iters-per-epoch", "100"), 0, "update     9,000", "the last update")


# ------------------------------------------------------------------------------------- benchmark, confusion_matrix


@pytest.mark.parametrize("words", [["--task", "inference"], ["--task", "dataloader"], ["--shape", "24", "--amp", "--fuse-conv-bn"]])
def test_speed_is_measured_on_any_machine(cls: Shell, words: list[str]) -> None:
    ended = cls.script("tools/benchmark.py", str(cls.yaml), *words, "--max-iter", "3", "--warm-up", "1", "--batch-size", "4")
    check(ended, 0, "median", "p10", "p90", "measured   12 images in 3 batches")
    low, middle, high = (float(re.findall(rf"{name} ([\d.e+]+)", ended.text)[0]) for name in ("p10", "median", "p90"))
    assert 0 < low <= middle <= high


def test_a_confusion_matrix_of_a_classifier_agrees_with_its_test(cls: Shell) -> None:
    trained, out = checkpoint(cls), cls.folder / "p.json"
    top1, _ = accuracy(cls.test("TEST.WEIGHTS", str(trained), "--out", str(out)))
    for source in (out, trained):
        folder = cls.folder / f"matrix_{source.suffix[1:]}"
        check(cls.script("tools/confusion_matrix.py", str(cls.yaml), str(source), str(folder)), 0, "on the diagonal")
        counts = np.array(json.loads((folder / "confusion.json").read_text())["counts"])
        predictions = json.loads(out.read_text())
        assert [counts[t, p] for t in range(10) for p in range(10)] == [
            sum(pair == (t, p) for pair in zip(predictions["label"], predictions["pred_label"], strict=True))
            for t in range(10)
            for p in range(10)
        ]
        assert 100 * counts.trace() / counts.sum() == pytest.approx(float(top1))
        rows = list(csv.reader((folder / "confusion.csv").read_text().splitlines()))
        assert [row[1:] for row in rows[1:]] == counts.astype(str).tolist()
        assert cv2.imread(str(folder / "confusion.png")) is not None


def test_a_confusion_matrix_of_a_detector_has_a_background(vision: Shell) -> None:
    """One object found, one taken for another class, one missed, one made up."""
    opened = open_config(vision.yaml)
    truth = opened.domain_module.build_dataset(opened.cfg, is_train=False)
    rows = [(index, box, int(label)) for index in range(len(truth)) for box, label in zip(truth.annotations(index).boxes, truth.annotations(index).labels, strict=True)]
    chosen = [{"image_id": truth.image_id(i), "category_id": int(truth.category_ids[c]), "bbox": [*map(float, b[:2]), *map(float, b[2:] - b[:2])], "score": 0.9} for i, b, c in rows]
    other = (rows[1][2] + 1) % 10
    chosen[1]["category_id"] = int(truth.category_ids[other])
    del chosen[2]
    chosen.append({**chosen[0], "bbox": [-30.0, -30.0, 2.0, 2.0]})
    chosen.append({**chosen[0], "bbox": [-50.0, -30.0, 2.0, 2.0], "score": 0.1})  # below --score-thr
    predictions = vision.folder / "p.bbox.json"
    predictions.write_text(json.dumps(chosen))
    ended = vision.script("tools/confusion_matrix.py", str(vision.yaml), str(predictions), str(vision.folder / "m"))
    check(ended, 0, "IoU at least 0.5", "taken for background")
    content = json.loads((vision.folder / "m" / "confusion.json").read_text())
    counts, expected = np.array(content["counts"]), np.zeros((11, 11), int)
    for number, (_, _, label) in enumerate(rows):
        expected[label, {1: other, 2: 10}.get(number, label)] += 1
    expected[10, rows[0][2]] += 1
    assert content["names"][-1] == "background"
    assert counts.tolist() == expected.tolist()


# ---------------------------------------------------------------------------------------------------------- export


def export(shell: Shell, name: str, *words: str) -> Ended:
    options = [word for word in words if "=" in word]
    trained = checkpoint(shell, *options)
    return shell.script("tools/export.py", str(shell.yaml), str(trained), str(shell.folder / name), *words)


@pytest.mark.parametrize("name", ["c.onnx", "c.pt2"])
def test_an_exported_classifier_takes_any_number_of_pictures(cls: Shell, name: str) -> None:
    ended = export(cls, name, "--dynamic", "--shape", "32")
    check(ended, 0, "-> scores", "largest differences: scores")
    from pet.models.export import ExportedModel

    exported = ExportedModel(cls.folder / name)
    assert exported.metadata["class_names"][3] == "shape 3"
    images = torch.randint(0, 256, (5, 3, 40, 32), dtype=torch.uint8)
    (scores,) = exported(images).values()
    opened = open_config(cls.yaml)
    model = opened.domain_module.GeneralizedCNN(opened.cfg, is_train=False).eval()
    model.load_state_dict(torch.load(cls.folder / "trained.pth", weights_only=True)["model"])
    with torch.no_grad():
        np.testing.assert_allclose(scores, model(images)["scores"].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "outputs"),
    [
        ([*MASK, *KEYPOINT, "MODEL.ROI_HEAD.KEYPOINT.NUM_KEYPOINTS=5"], "boxes, scores, labels, masks, keypoints, keypoint_scores"),
        (["MODEL.ROI_HEAD.TYPE=''", "MODEL.GLOBAL_HEAD.DET.TYPE=retinanet", "MODEL.GLOBAL_HEAD.DET.RETINANET.ANCHOR_SIZES=[8,16,32,48]"], "boxes, scores, labels"),
        ([*NO_DET, *SEMSEG, *classes(semseg=11)], "semseg"),
    ],
    ids=["mask_keypoint_rcnn", "retinanet", "semantic"],
)
def test_onnxruntime_finds_what_the_network_finds(vision: Shell, options: list[str], outputs: str, shared_data: Path) -> None:
    pictures = sorted(str(path) for path in shared_data.rglob("*.jpg"))[:2]
    ended = export(vision, "m.onnx", *options, "--shape", "48", "64", "--image", *pictures)
    check(ended, 0, f"images [1, 3, 48, 64] -> {outputs}\n")
    if outputs != "semseg":
        assert int(re.findall(r"comparison: (\d+)", ended.text)[0]) > 10


def test_a_format_that_cannot_hold_a_detector_is_refused(vision: Shell) -> None:
    check(export(vision, "d.pt2", "--shape", "48"), 2, "Write an .onnx file")
    check(export(vision, "d.onnx", "--shape", "48", "--dynamic"), 2, "Write an .onnx file, without --dynamic")
    check(export(vision, "d.onx"), 2, ".onnx, .pt2")
    assert not list(vision.folder.glob("d.*"))


def test_a_file_that_computes_something_else_fails(cls: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from pet.models import export as module

    real = module.ExportedModel.__call__
    monkeypatch.setattr(
        module.ExportedModel, "__call__", lambda self, images: {name: value + 0.01 for name, value in real(self, images).items()}
    )
    check(export(cls, "c.onnx", "--shape", "32"), 1, "error: the file differs by 0.01, more than --tolerance 0.001")


# ------------------------------------------------------------------------------------------------------- real runs


def test_tools_run_as_commands_from_another_folder(tmp_path: Path) -> None:
    """One process for all of them: what a script does with its own path and arguments."""
    names = ["get_flops", "publish_model", "print_config", "analyze_logs", "vis_scheduler", "benchmark", "confusion_matrix", "export", "ckpt"]
    tools = Path(__file__).resolve().parents[2] / "tools"
    code = (
        "import runpy, sys\n"
        f"for name in {names}:\n"
        f"    sys.argv = [name, '--help']\n"
        f"    try: runpy.run_path('{tools}/' + name + '.py', run_name='__main__')\n"
        "    except SystemExit as end: assert not end.code, name\n"
        "assert 'torch' not in sys.modules, 'help loads torch'\n"
    )
    script = tmp_path / "all.py"
    script.write_text(code)
    done = run_cli([script], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(names)
    printed = run_cli([tools / "print_config.py", tools.parent / RESNET50], cwd=tmp_path)
    assert yaml.safe_load(printed.stdout)["MODEL"]["BACKBONE"] == "torchvision/resnet50"
