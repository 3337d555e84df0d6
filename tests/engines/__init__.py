"""Real engines for integration tests: each lives in a virtual environment of its own and runs as a child process."""
