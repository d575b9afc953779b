"""How variants are trained, searched, tracked, evaluated and compared. `python -m pipeline` lists the commands."""
