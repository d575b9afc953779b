"""The optimizer of the variants."""

import inspect

import torch


class Adam(torch.optim.Adam):
    """`torch.optim.Adam` without the wrappers that serve `torch.compile`. It changes weights in exactly the same way.

    The wrappers import torch's compiler when an optimizer is first used, which takes a second in each process. They
    matter only to compiled functions that call the optimizer. `differentiable` is not supported.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
