"""Experiments of study ``eos``."""
