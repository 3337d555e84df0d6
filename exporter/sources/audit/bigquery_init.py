"""`init-audit` for BigQuery: creates dataset and table, or adds columns. Never drops anything."""

from google.api_core import exceptions as api
from google.cloud import bigquery

from exporter.catalog import Catalog
from exporter.settings import Settings
from exporter.sources.audit.bigquery_client import BigQueryTable, google_type
from exporter.sources.audit.bigquery_transport import BoundedAdapter
from exporter.sources.audit.query import audit_table
from exporter.sources.audit.schema import InitReport, TableColumn, compare, table_columns


def init_bigquery(settings: Settings, catalog: Catalog, location: str | None = None) -> InitReport:
    """Create the audit table that the settings name, or add the columns that it lacks.

    A new table is partitioned by day on its timestamp.

    Args:
        location: region of a dataset that has to be created; BigQuery's default (US) if None.

    Raises:
        SourceError: BigQuery cannot be reached or refuses; creating needs `roles/bigquery.dataEditor`.
    """
    name = audit_table(settings, catalog)
    source = BigQueryTable(settings, catalog, name, BoundedAdapter(settings.audit_connect_timeout_seconds))
    wanted = table_columns(catalog)
    try:
        with source.session() as client:
            try:
                table = client.get_table(source.name, retry=source.retry())
            except api.NotFound:
                _create(client, source, wanted, location)
                return InitReport(source.name, True, tuple(column.name for column in wanted), ())
            present = {field.name.lower(): google_type(field) for field in table.schema}
            lacking, mismatched = compare(wanted, present)
            if lacking:
                table.schema = [*table.schema, *(_field(column) for column in lacking)]
                client.update_table(table, ["schema"], retry=source.retry())
            return InitReport(source.name, False, tuple(column.name for column in lacking), mismatched)
    finally:
        source.close()


def _create(
    client: bigquery.Client,
    source: BigQueryTable,
    wanted: tuple[TableColumn, ...],
    location: str | None,
) -> None:
    dataset = bigquery.Dataset(source.name.rpartition(".")[0])
    if location:
        dataset.location = location
    client.create_dataset(dataset, exists_ok=True, retry=source.retry())
    table = bigquery.Table(source.name, schema=[_field(column) for column in wanted])
    if wanted[0].type in ("TIMESTAMP", "DATETIME"):
        table.time_partitioning = bigquery.TimePartitioning(field=wanted[0].name)
    client.create_table(table, exists_ok=True, retry=source.retry())


def _field(column: TableColumn) -> bigquery.SchemaField:
    if column.description:
        return bigquery.SchemaField(column.name, column.type, description=column.description)
    return bigquery.SchemaField(column.name, column.type)
