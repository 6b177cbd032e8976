"""Configuration: declared keys, YAML files, and one report of everything that is wrong."""

from pet.config.base import get_base_cfg
from pet.config.check import check_cfg, infer_cfg
from pet.config.node import CfgNode, keywords
from pet.config.problem import ConfigError, Problem
from pet.config.resolved import domain_header, read_domain_header
from pet.config.schema import Key, key

__all__ = [
    "CfgNode",
    "ConfigError",
    "Key",
    "Problem",
    "check_cfg",
    "domain_header",
    "get_base_cfg",
    "infer_cfg",
    "key",
    "keywords",
    "read_domain_header",
]
