"""`make test-stack`: the compose file, started for real in a Docker engine of its own and used as its users would.

The modules, in the order in which a run uses them: `programs` finds what is needed, `engine` starts the engine,
`images` fills it, `user` types commands, `checks` says what must hold, `report` prints what came of it.
"""
