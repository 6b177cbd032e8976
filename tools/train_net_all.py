"""Start a training run: the path of the YAML selects ``tools/<domain>/train_net.py``.

python tools/train_net_all.py --cfg cfgs/tasks/cls/MNIST/lenet5.yaml [--gpu_id 0,1 | --nproc 2] [KEY VALUE ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.launch import main

if __name__ == "__main__":
    sys.exit(main(name="train_net.py"))
