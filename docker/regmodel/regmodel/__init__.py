"""A bicycle-traffic model behind an HTTP API: the system that this project monitors."""
