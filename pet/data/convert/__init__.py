"""Data sets of other formats to COCO JSON files."""
