"""The seven controlled experiments: each file is a short method section, from setting to statements and figure."""
