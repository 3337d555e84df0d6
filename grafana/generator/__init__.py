"""Writes grafana/provisioning (four dashboards, nine alert rules, where their messages go) and prometheus/ (the same
alerts for Prometheus and Alertmanager).

`python -m grafana.generator` writes the files, `--check` compares them. What they show and test stands in
`grafana/thresholds.yml`, `prometheus.yml` and in this package; the files themselves are not edited by hand.
"""
