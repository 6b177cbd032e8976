"""Train: the path of the config selects the script, as in train_net_all.py.

python tools/train.py cfgs/vision/shapes/faster_rcnn_quickstart.yaml [--gpu_id 0,1 | --nproc 2] [flags] [KEY VALUE ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.launch import main

if __name__ == "__main__":
    sys.exit(main(name="train_net.py", default_cfg=None, description=__doc__))
