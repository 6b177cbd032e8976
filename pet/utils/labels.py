"""Whether two lists of names mean the same by a label, which is a number: of a checkpoint, of training and of test data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_KINDS = ("class_names", "semseg_names", "keypoint_names")
_SHOWN = 10


def names_in(source: Any) -> dict[str, list[str]]:
    """The names of labels in a data set, or in the ``meta`` of a checkpoint; of the kinds that it has.

    Semantic sets call the classes of their map ``class_names``, too, where others have those of objects: then it is left out.
    """
    found = {kind: source.get(kind) if isinstance(source, Mapping) else getattr(source, kind, ()) for kind in _KINDS}
    names = {kind: list(map(str, values)) for kind, values in found.items() if isinstance(values, list | tuple) and values}
    if names.get("class_names") == names.get("semseg_names"):
        names.pop("class_names", None)
    return names


def compare_names(ours: Any, theirs: Any, we: str, they: str) -> list[str]:
    """Compare the names of labels where both sides have them.

    Args:
        ours: what the labels must mean: training data or the ``meta`` of a checkpoint, see ``names_in``.
        theirs: a data set that is tested.
        we, they: what to call the two in messages.

    Returns:
        Warnings about labels of other names, whose meaning cannot be known.

    Raises:
        ValueError: a name belongs to different labels.
    """
    warnings = []
    known, tested = names_in(ours), names_in(theirs)
    for kind in (kind for kind in known if kind in tested):
        a, b = known[kind], tested[kind]
        places = [place for place, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]]
        if not places:
            continue
        shared = _once(a) & _once(b)
        moved = next((place for place in places if {a[place], b[place]} & shared), None)
        place = places[0] if moved is None else moved
        difference = f"{kind} {place} is '{a[place]}' in {we} and '{b[place]}' in {they}"
        if moved is not None:
            cause = "the same names in another order" if sorted(a) == sorted(b) else "the same name for another label"
            key = f"CLASSES: [{short_names(a, 100)}]" if kind == "class_names" else "the same names in the same order"
            raise ValueError(f"{difference}: {cause}; give {they} the labels of {we}, in its entry of DATA.CATALOG {key}")
        warnings.append(
            f"{difference}; labels are compared by number, whatever their names are ({we}: {short_names(a)}; {they}: "
            f"{short_names(b)})"
        )
    return warnings


def short_names(names: Sequence[str], limit: int = _SHOWN) -> str:
    """The first names as text."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _once(names: Sequence[str]) -> set[str]:
    """Names that belong to one label only."""
    return {name for name, count in Counter(names).items() if count == 1}
