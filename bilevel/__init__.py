"""Bilevel optimisation engine on Betty."""
