"""Writes grafana/provisioning: four dashboards, nine alert rules and where their messages go.

`python -m grafana.generator` writes the files, `--check` compares them. What they show and test stands in
`grafana/thresholds.yml`, `prometheus.yml` and in this package; the files themselves are not edited by hand.
"""
