"""Reaction barriers by nudged elastic bands on the potential, their rates, and the labels that make them right."""
