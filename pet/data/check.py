"""Checking the data of an experiment before it runs: what is missing, what cannot be read, what does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pet.config import CfgNode
from pet.data.build import dataset_from_cfg
from pet.data.datasets import VisionDataset
from pet.data.datasets.annotated import is_annotated
from pet.data.datasets.annotation_faults import FAULTS, HARMLESS, AnnotationFaults
from pet.data.reading import read_all
from pet.utils.labels import compare_names, names_in

_SHOWN = 10


@dataclass
class SetCheck:
    """What was found about one data set.

    Attributes:
        name, split: of the data set; ``train`` or ``test``.
        report: the data report, lines of text.
        problems: why it cannot be used as configured, each a message.
        faults: faults in its annotations and pictures.
        notes: further lines, about what reading the pictures and comparing the sets has shown.
        names: of its labels, see ``pet.utils.labels.names_in``.
    """

    name: str
    split: str
    report: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    faults: AnnotationFaults = field(default_factory=AnnotationFaults)
    notes: list[str] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """Problems, and faults that lose data."""
        return len(self.problems) + sum(count for fault, count in self.faults.counts.items() if fault not in HARMLESS)

    def lines(self) -> list[str]:
        """Everything as text."""
        title = f"{self.split} data '{self.name}': {f'{self.errors} errors' if self.errors else 'no errors'}"
        problems = [f"  error: {line}" for problem in self.problems for line in [problem.replace("\n", "\n    ")]]
        return [title, *(f"  {line}" for line in self.report), *self.notes, *problems, *self.faults.lines(_SHOWN)]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values; of each fault up to 100 places."""
        faults = {
            fault: {"count": count, "meaning": FAULTS[fault], "places": self.faults.places.get(fault, [])}
            for fault, count in self.faults.counts.items()
        }
        texts = {"report": self.report, "notes": self.notes, "problems": self.problems}
        return {"name": self.name, "split": self.split, "errors": self.errors, **texts, "faults": faults}


def check_data(
    cfg: CfgNode, domain: Any, splits: Sequence[str] = ("train", "test"), read: bool = True, processes: int = 1
) -> Iterator[SetCheck]:
    """Check every data set of an experiment by itself, the training sets together, and the test sets against the first of them.

    Args:
        cfg: the configuration, with DATA.CHECK fast.
        domain: package with ``build_dataset`` and ``report_dataset``.
        splits: ``train``, ``test``.
        read: read every picture and label map.
        processes: how many read.

    Raises:
        KeyError, TypeError: a data set is not known, or declared wrongly.
    """
    trained = SetCheck("", "train")
    for split in splits:
        names = list(dict.fromkeys((cfg.TRAIN if split == "train" else cfg.TEST).DATASETS))
        found = [check_set(cfg, domain, split, [name], read, processes) for name in names]
        if split == "test":
            _compare_with(trained, found)
        elif found:
            trained = found[0]
        yield from found
        if split == "train" and len(names) > 1 and not any(one.problems for one in found):
            together = check_set(cfg, domain, split, names, False, 1)
            together.faults = AnnotationFaults()  # those of its parts
            yield together


def check_set(cfg: CfgNode, domain: Any, split: str, names: Sequence[str], read: bool, processes: int) -> SetCheck:
    """Check one data set, or several that are joined."""
    result = SetCheck("+".join(names), split)
    is_train = split == "train"
    try:
        dataset = domain.build_dataset(cfg, is_train, names)
    except FileNotFoundError as error:
        result.problems.append(str(error))
        return result
    except ValueError as error:  # it does not fit the model; what is in it is looked at all the same
        result.problems.append(str(error))
        try:
            dataset = dataset_from_cfg(cfg, is_train, names)
        except ValueError:
            return result
    try:
        result.report = str(domain.report_dataset(cfg, dataset)).splitlines()
    except ValueError as error:
        result.problems.append(str(error))
    result.names = names_in(dataset)
    _look_for_faults(result, dataset, read, processes)
    return result


def _compare_with(trained: SetCheck, tests: Sequence[SetCheck]) -> None:
    """Labels that mean something else in a test are a problem, those of other names are noted."""
    for one in tests:
        try:
            found = compare_names(trained.names, one.names, f"the training data {trained.name}", one.name)
        except ValueError as error:
            one.problems.append(str(error))
        else:
            one.notes += [f"  warning: {text}" for text in found]


def _look_for_faults(result: SetCheck, dataset: VisionDataset, read: bool, processes: int) -> None:
    if is_annotated(dataset):
        result.faults.update(dataset.faults, dataset.fault_places)
        # The report tells the first place of each; here they are listed.
        result.report = [line for line in result.report if not _tells_faults(line)]
    if not read:
        return
    reading = read_all(dataset, processes)
    result.faults.update(reading.faults.counts, reading.faults.places)
    readable = f"  {len(reading.sizes)} of {reading.count} images can be read"
    result.notes = [f"  {line}" for line in (*reading.size_lines(), readable)]


def _tells_faults(line: str) -> bool:
    return line.startswith("    ") or "annotation faults" in line
