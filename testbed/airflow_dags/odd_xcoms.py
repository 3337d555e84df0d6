"""A DAG that pushes what is no JSON by itself: NumPy's scalars, Decimals, sets and tuples, alone and in a dict."""

from datetime import datetime
from decimal import Decimal

try:
    from airflow.providers.standard.operators.python import PythonOperator
    from airflow.sdk import DAG

    BOOL = True
except ImportError:
    BOOL = False  # Airflow 2.11 knows the name that NumPy 1 gave its flags: with NumPy 2, the task fails
    from airflow import DAG
    from airflow.operators.python import PythonOperator


def push(ti, **_):
    import numpy

    scalars = {
        "float64": numpy.float64(0.5),
        "int64": numpy.int64(7),
        "decimal": Decimal("1.25"),
    }
    if BOOL:
        scalars["bool_"] = numpy.bool_(True)
    collections = {
        "set": {"temp", "hour", "rain", "wind"},
        "tuple": ("hour of day", "temp"),
        "list": [*scalars.values()],
    }
    for key, value in {**scalars, **collections, "report": {**scalars, **collections, "nested": scalars}}.items():
        ti.xcom_push(key=key, value=value)


with DAG("odd_xcoms", schedule=None, start_date=datetime(2024, 1, 1), catchup=False) as dag:
    PythonOperator(task_id="push", python_callable=push)
