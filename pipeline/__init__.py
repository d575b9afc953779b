"""How variants are compared: data, one trainer, evaluation, tracking, search. `python -m pipeline` lists commands."""
