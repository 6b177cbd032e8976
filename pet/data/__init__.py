"""Data sets, transforms, samplers and loaders; import the module you need."""
