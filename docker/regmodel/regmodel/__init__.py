"""The RegModel API: predictions of bike traffic over HTTP, with its own metrics."""
