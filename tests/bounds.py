"""How long the random tests may take; `pytest --fuzz-examples N --kills N` makes them longer."""

EXAMPLES = None  # inputs for each command; None: as many as fit into `make test`
KILLS = None     # moments at which each command is killed; None: a handful
