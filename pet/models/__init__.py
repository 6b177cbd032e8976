"""Backbones, necks, heads and losses: plain modules that know nothing of the config."""
