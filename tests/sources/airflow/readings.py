"""What a reading of Airflow says, for the tests of this folder."""

from exporter.snapshot import HistogramSample, Reading, Sample


def value(reading: Reading, metric: str, **labels: str) -> float | None:
    """A sample's value; None when there is none."""
    observation = reading.observations.get(metric)
    for sample in observation.samples if observation else ():
        if dict(sample.labels) == labels:
            assert isinstance(sample, Sample)
            return sample.value
    return None


def histogram(reading: Reading, metric: str, **labels: str) -> tuple[int, float] | None:
    """How many events a histogram holds, and their sum."""
    for sample in reading.observations[metric].samples:
        if dict(sample.labels) == labels:
            assert isinstance(sample, HistogramSample)
            return sum(sample.counts), round(sample.sum, 6)
    return None


def runs_total(reading: Reading, dag: str, state: str) -> float | None:
    return value(reading, "airflow_dag_runs_total", dag_id=dag, state=state)


def run_durations(reading: Reading, dag: str, state: str) -> tuple[int, float] | None:
    return histogram(reading, "airflow_dag_run_duration_seconds", dag_id=dag, state=state)


def task_durations(reading: Reading, dag: str, task: str, state: str) -> tuple[int, float] | None:
    return histogram(reading, "airflow_task_duration_seconds", dag_id=dag, task_id=task, state=state)
