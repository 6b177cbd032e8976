"""Folders of runs written by hand, in the states a report may meet."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

from pet.utils.images import write_png

NASTY = "</script><script>document.title='taken'</script>\"'&<img src=x onerror=\"document.title='taken'\">"


def write_rows(folder: Path, *rows: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def training_rows(count: int = 30, dataset: str = "val") -> list[dict[str, Any]]:
    """A loss that falls, a rate that falls, and an evaluation every ten updates on two data sets."""
    rows: list[dict[str, Any]] = []
    for step in range(1, count + 1):
        values = {"total_loss": 3 / step, "loss_cls": 2 / step, "loss_box_reg": 1 / step, "lr": 0.1 / step, "acc1": 50.0}
        rows.append({"iteration": step, "epoch": step / 10, **values, "time": 0.25, "data_time": 0.01})
        if step % 10 == 0:
            results = {
                f"{name}/{metric}": step + plus
                for name in (dataset, "other")
                for metric, plus in (("bbox_AP", 0), ("bbox_AP50", 20))
            }
            rows.append({"iteration": step, "epoch": step / 10, "eval": results})
    return rows


def start_of(**values: Any) -> dict[str, Any]:
    return {
        "started": "2026-01-02 03:04:05",
        "host": platform.node(),
        "pid": 2**22 + 1,  # no process has it
        "command": "python tools/train_net_all.py --cfg cfgs/vision/x.yaml",
        "log": "log/train_1.txt",
        "environment": ["python 3.11, torch 2", "1 process on cpu"],
        "changed": [["SOLVER.OPTIMIZER.BASE_LR", "0.1", "0.02", "command line"]],
        "data": "my_train: 20 images",
        **values,
    }


def write_run(folder: Path, nasty: str = "", **ending: Any) -> Path:
    """A run with everything in it; ``nasty`` is put wherever a name or a message comes from outside."""
    ending = ending or {
        "status": "finished",
        "reason": f"30 updates done{nasty}",
        "updates": 30,
        "seconds": 90.5,
        "hooks": {"Evaluate": 9.0},
    }
    start = start_of()
    start |= {"data": start["data"] + nasty, "command": start["command"] + nasty, "environment": [*start["environment"], nasty]}
    start["changed"].append(["DATA.CATALOG", "{}", f"{{{nasty!r}: 1}}", f"file {nasty}"])
    write_rows(folder, *training_rows(dataset=f"val{nasty}".replace("/", "|")))
    (folder / "run.json").write_text(json.dumps({"starts": [start | ending]}))
    (folder / "best.json").write_text(json.dumps({"metric": "bbox_AP", "value": 30.0, "iteration": 30}))
    table = {"class": [f"cat{nasty}", "dog"], "AP": [30.0, None], "truths": [4, 0]}
    (folder / "classes.json").write_text(json.dumps({"iteration": 30, "classes": {"val/bbox": table}}))
    (folder / "config.yaml").write_text(f"# vision\nTRAIN: {{BATCH_SIZE: 8}}\nMISC: {{CKPT: {json.dumps(nasty)}}}\n")
    (folder / "log").mkdir()
    (folder / "log" / "train_1.txt").write_text(
        "2026-01-02 03:04:06,001 INFO all is well\n"
        f"2026-01-02 03:04:07,001 WARNING a.jpg cannot be read{nasty}\n  second line\n"
        f"2026-01-02 03:04:08,001 WARNING a.jpg cannot be read{nasty}\n  second line\n"
        "2026-01-02 03:04:09,001 DEBUG a traceback\n"
    )
    for name in ("vis/labels.png", "vis/val_predictions.png", "test/vis/val_confusion.png"):
        write_png(folder / name, np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    results = {"weights": f"model_best.pth{nasty}", "eval": {"val/bbox_AP": 31.5}, "classes": {"val/bbox": table}}
    (folder / "test" / "metrics.json").write_text(json.dumps(results))
    return folder
