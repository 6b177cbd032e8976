"""Test a checkpoint: metrics, files of predictions, pictures. The path of the config selects the script.

python tools/test.py cfgs/vision/shapes/faster_rcnn_quickstart.yaml [CHECKPOINT] [flags] [KEY VALUE ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.launch import main

if __name__ == "__main__":
    sys.exit(main(name="test_net.py", default_cfg=None, description=__doc__))
