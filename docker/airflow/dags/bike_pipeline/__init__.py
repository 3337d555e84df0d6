"""What the three DAGs do, without Airflow: every module here can be used and tested on its own."""
