"""What the engine adds to an update does not grow unseen; calls are counted, because they do not depend on the machine."""

from __future__ import annotations

from benchmarks.engine_overhead import count_calls

# With TensorBoard, JSON and console every 20 updates. A raw loop that writes the same makes 16 calls more than one that writes nothing.
PYTHON_CALLS_OVER_RAW = 45


def test_python_calls_of_an_update_stay_few():
    raw, pet = count_calls("raw"), count_calls("pet")
    assert pet["python"] - raw["python"] <= PYTHON_CALLS_OVER_RAW
