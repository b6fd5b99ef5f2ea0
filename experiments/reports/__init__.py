"""Figures, tables and verdicts, drawn from run directories."""
