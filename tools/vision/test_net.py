"""Test a detector, a segmentation or keypoint model, or a classifier.

python tools/vision/test_net.py --cfg cfgs/vision/mscoco/e2e_faster_rcnn_R-50-FPN_1x.yaml [--out FILE] [--metrics M ...] [K V ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pet.vision as domain  # noqa: E402
from pet.engine import setup  # noqa: E402
from pet.engine.testing import add_test_arguments, run_test  # noqa: E402


def main(args):
    """Build the model, load its weights, evaluate it on every test set."""
    cfg = setup.load_cfg(args, domain.get_base_cfg, domain.infer_cfg)
    device = setup.default_setup(cfg, args, mode="test")
    model = domain.GeneralizedCNN(cfg, is_train=False)
    setup.log_analysis(cfg, domain, model)
    return run_test(cfg, args, model, domain, device)


if __name__ == "__main__":
    setup.run_main(main, add_test_arguments(setup.default_argument_parser(__doc__)))
