"""The three DAGs of the pipeline as Airflow 2 and 3 both run them: tasks push what their run's `conf` says.

`conf` keys: `fail` ends the last task in failure, `until` makes it wait for a file of that name, every other key is an
XCom as `task.key`: "absent" is not pushed, "long 1000" is a text of that many characters. Without conf, the
values in PUSHED are pushed.
"""

import time
from datetime import datetime
from pathlib import Path

try:
    from airflow.providers.standard.operators.python import PythonOperator
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.operators.python import PythonOperator

PUSHED = {
    "daily_fetch_bike_data": {"fetch_to_bigquery": {"records_count": 120}},
    "daily_prediction": {
        "predict_daily_data": {"predictions_count": 48, "rmse": 41.5, "mae": "30.25", "r2": 0.8125},
    },
    "monitor_and_fine_tune": {
        "monitor_drift": {
            "drift_detected": True,
            "drift_summary": str({"drift_share": 0.375, "drifted_features": ["temp", "hour", "rain"]}),
        },
        "validate_model": {"r2": 0.71, "r2_baseline": 0.77, "rmse": 55.5},
        "fine_tune_model": {
            "r2_current": 0.83,
            "r2_baseline": 0.81,
            "old_champion_r2_baseline": 0.79,
            "model_improvement": 0.02,
        },
        "validate_new_champion": {
            "new_champion_r2": 0.825,
            "new_champion_r2_baseline": 0.815,
            "new_champion_rmse": 44.25,
        },
    },
}


def push(ti, dag_run, **_):
    conf = dag_run.conf or {}
    for key, usual in PUSHED[ti.dag_id][ti.task_id].items():
        value = conf.get(f"{ti.task_id}.{key}", usual)
        if isinstance(value, str) and value.startswith("long "):
            value = "x" * int(value.removeprefix("long "))
        if value != "absent":
            ti.xcom_push(key=key, value=value)


def finish(dag_run, **_):
    conf = dag_run.conf or {}
    while "until" in conf and not Path(conf["until"]).exists():
        time.sleep(0.05)
    if conf.get("fail"):
        raise RuntimeError("told to fail")


for dag_id, tasks in PUSHED.items():
    with DAG(dag_id, schedule=None, start_date=datetime(2024, 1, 1), catchup=False) as dag:
        previous = None
        for task_id in tasks:
            task = PythonOperator(task_id=task_id, python_callable=push)
            if previous is not None:
                previous >> task
            previous = task
        previous >> PythonOperator(task_id="finish", python_callable=finish)
    globals()[dag_id] = dag
