"""Scores, by the libraries that papers cite."""
