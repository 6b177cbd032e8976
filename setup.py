"""Packaging of Pet: metadata, what it needs, and what each extra adds."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "pet" / "__init__.py").read_text(encoding="utf-8"))[1]

REQUIRED = [
    "torch>=2.10",
    "torchvision",
    "timm",
    "yacs",
    "numpy",
    "opencv-python>=4.10",
    "pillow",
    "fvcore",
    "tensorboard>=2.21",
    "rich",
    "pycocotools",
    "faster-coco-eval",
    "pyyaml",
]
EXTRAS = {
    "ocr": ["shapely", "pyclipper", "rapidfuzz"],
    "track": ["scipy"],
    "video": ["av"],
    "export": ["onnx", "onnxscript", "onnxruntime", "safetensors"],
    "notebook": ["nbformat", "nbclient", "ipykernel"],
    "writers": ["wandb", "mlflow-skinny"],
    "docs": ["sphinx>=9", "myst-parser", "furo"],
    "dev": ["pytest>=9", "pytest-xdist", "torchmetrics", "ruff>=0.17", "mypy>=2", "types-PyYAML", "pre-commit"],
    "bench": ["mmengine", "lightning", "accelerate", "pytorch-ignite"],
}

setup(
    name="pet",
    version=VERSION,
    description="A hook-centric PyTorch training engine for computer vision",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="Pet contributors",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["pet", "pet.*"]),
    package_data={"pet": ["py.typed"], "pet.visualization.report": ["report.css", "report.js"]},
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
