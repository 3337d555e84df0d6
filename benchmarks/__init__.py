"""What the exporter costs and how it holds up, measured side by side with other ways to do it: `make bench`.

One module answers one question; `report` writes what they found to results.md.
"""
