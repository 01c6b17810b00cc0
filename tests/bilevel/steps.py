"""What engine tests share."""


def record_steps(*problems):
    """A list that receives each problem's name at each of its optimiser steps."""
    order = []
    for problem in problems:
        problem.optimizer.register_step_post_hook(
            lambda *args, name=problem.name: order.append(name)
        )
    return order
