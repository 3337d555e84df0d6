"""A DAG whose tasks end in every way: mapped, retried, skipped, failed, and never run."""

from datetime import datetime, timedelta

try:
    from airflow.exceptions import AirflowSkipException
    from airflow.providers.standard.operators.python import PythonOperator
    from airflow.sdk import DAG
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.exceptions import AirflowSkipException
    from airflow.operators.python import PythonOperator


def nothing(*_args, **_):
    return None


def fail_once(ti, **_):
    if ti.try_number < 2:
        raise RuntimeError("told to fail once")


def skip(**_):
    raise AirflowSkipException


def fail(**_):
    raise RuntimeError("told to fail")


with DAG("odd_tasks", schedule=None, start_date=datetime(2024, 1, 1), catchup=False) as dag:
    PythonOperator.partial(task_id="mapped", python_callable=nothing).expand(op_args=[[1], [2], [3]])
    PythonOperator(task_id="retried", python_callable=fail_once, retries=2, retry_delay=timedelta(0))
    PythonOperator(task_id="skipped", python_callable=skip)
    PythonOperator(task_id="failed", python_callable=fail) >> PythonOperator(
        task_id="never_run", python_callable=nothing
    )
