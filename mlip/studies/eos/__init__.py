"""Equation of state: pressure against density and temperature, and the static curve."""
