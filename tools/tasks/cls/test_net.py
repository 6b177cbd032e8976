"""Test an image classifier.

python tools/tasks/cls/test_net.py --cfg cfgs/tasks/cls/MNIST/lenet5.yaml [--out predictions.json] [--metrics M ...] [K V ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import pet.tasks.cls as domain  # noqa: E402
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
