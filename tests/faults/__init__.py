"""Faults on purpose: killed processes, damaged files, full disks."""
