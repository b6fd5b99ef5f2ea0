"""Everything a user may set: typed schemas (dataclasses, no torch) and YAML groups, composed by Hydra."""
