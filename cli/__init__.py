"""The command line: parses, hands over to Hydra, renders errors. It knows no tensors."""
