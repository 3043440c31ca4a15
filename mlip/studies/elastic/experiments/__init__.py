"""Experiments of study ``elastic``."""
