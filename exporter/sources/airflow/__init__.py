"""Airflow as a source: DAG runs, task instances, and the XComs that metrics are made of.

source        one refresh: what is asked, in which order (`AirflowSource`)
api           the questions: REST API v1 (Airflow 2) and v2 (Airflow 3)
session       one request: log-in, retries, deadline, Airflow's clock
failures      what can go wrong, as one plain error each
records       what Airflow lists, as frozen records
watched       which DAGs are watched
windows       what ended since the last look, window by window
totals        what was counted, exactly once, in the ledger; its tables
counted       the same as frozen values
xcom_fetch    which XComs are fetched, and when
xcom_value    a number out of what a task pushed
observations  from what is counted to the reading
"""
