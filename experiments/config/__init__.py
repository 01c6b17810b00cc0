"""The configuration: its options, their checks, and the objects they ask for."""
