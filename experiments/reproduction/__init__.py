"""The papers' tables and figures as plans of runs: what ``python -m experiments.reproduce`` is made of."""  # noqa: E501
