"""Google's client for BigQuery, with every call bounded. Imported only where BigQuery is used."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import google.auth.exceptions
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from requests.exceptions import RequestException

from bike_pipeline.records import PipelineError

CALL_SECONDS: Final = 30.0
JOB_SECONDS: Final = 300.0
RETRY: Final = Retry(initial=1.0, maximum=10.0, timeout=60.0)
"""The client's own default goes on for 600 seconds."""


_KEY_VARIABLE: Final = "GOOGLE_APPLICATION_CREDENTIALS"


class BigQueryTrouble(PipelineError):
    """BigQuery did not do what it was asked."""


def make_client(project: str) -> bigquery.Client:
    """A client for a project; for an emulator when BIGQUERY_EMULATOR_HOST says so.

    Raises:
        BigQueryTrouble: there are no usable credentials.
    """
    emulator = os.environ.get("BIGQUERY_EMULATOR_HOST")
    with failures("the client"):
        if emulator:
            options = ClientOptions(api_endpoint=emulator if "://" in emulator else f"http://{emulator}")
            anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call]
            return bigquery.Client(project, credentials=anonymous, client_options=options)
        return bigquery.Client(project)


def make_tables(client: bigquery.Client, dataset: str, tables: Mapping[str, Mapping[str, str]], *, what: str) -> None:
    """Make a dataset and its tables, partitioned by day of `timestamp`, where they do not exist.

    Args:
        dataset: `project.dataset`.
        tables: by name, their columns' GoogleSQL types by name.
        what: what they are, for a failure's message.

    Raises:
        BigQueryTrouble: it failed.
    """
    with failures(f"making {what}"):
        client.create_dataset(dataset, exists_ok=True, retry=RETRY, timeout=CALL_SECONDS)
        for name, columns in tables.items():
            schema = [bigquery.SchemaField(column, kind) for column, kind in columns.items()]
            table = bigquery.Table(f"{dataset}.{name}", schema)
            table.time_partitioning = bigquery.TimePartitioning(field="timestamp")
            client.create_table(table, exists_ok=True, retry=RETRY, timeout=CALL_SECONDS)


def run(client: bigquery.Client, sql: str, parameters: list[Any]) -> list[Any]:
    """Run a statement with query parameters to its end and give its rows.

    Raises:
        BigQueryTrouble: it failed, or took longer than JOB_SECONDS.
    """
    config = bigquery.QueryJobConfig(query_parameters=parameters, job_timeout_ms=int(JOB_SECONDS * 1000))
    with failures("the query"):
        job = client.query(sql, job_config=config, retry=RETRY, timeout=CALL_SECONDS, job_retry=None)
        return list(job.result(retry=RETRY, timeout=JOB_SECONDS, job_retry=None))


@contextlib.contextmanager
def failures(what: str) -> Iterator[None]:
    """Make the pipeline's error of everything that Google's client raises."""
    try:
        yield
    except google.auth.exceptions.TransportError:
        raise BigQueryTrouble(f"BigQuery, {what}: Google's log-in cannot be reached") from None
    except google.auth.exceptions.GoogleAuthError:
        # Its own message may quote the key file.
        raise BigQueryTrouble(f"BigQuery, {what}: {_wrong_credentials()}") from None
    except (GoogleAPICallError, RetryError, RequestException, ValueError) as error:
        raise BigQueryTrouble(f"BigQuery, {what}: {type(error).__name__}: {error}") from error
    except OSError as error:
        if error.filename is not None and error.filename == os.environ.get(_KEY_VARIABLE):
            raise BigQueryTrouble(f"BigQuery, {what}: {_wrong_credentials()}") from None
        raise BigQueryTrouble(f"BigQuery, {what}: {type(error).__name__}: {error}") from error


def _wrong_credentials() -> str:
    """What is wrong with the credentials, and what to do: names the variable and its file."""
    otherwise = "or unset GOOGLE_CLOUD_PROJECT to keep everything in files"
    name = os.environ.get(_KEY_VARIABLE)
    if not name:
        return f"no Google credentials were found: set {_KEY_VARIABLE} to a service account's key file, {otherwise}"
    path = Path(name)
    if not path.exists():
        return f"{_KEY_VARIABLE} names {path}, which does not exist: put a service account's key there, {otherwise}"
    if not path.is_file() or not os.access(path, os.R_OK):
        return f"{_KEY_VARIABLE} names {path}, which is not a file that this user can read (chmod 644), {otherwise}"
    return f"{_KEY_VARIABLE} names {path}, which Google does not accept: make a new key, {otherwise}"
