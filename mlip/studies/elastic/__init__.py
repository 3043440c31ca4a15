"""Elastic constants, clamped and relaxed; what is wrong with them, and which training structures made them so."""
