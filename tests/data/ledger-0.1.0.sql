BEGIN TRANSACTION;
CREATE TABLE airflow_dag (
    instance TEXT, dag_id TEXT,
    run_until REAL, run_complete INTEGER NOT NULL DEFAULT 0,
    task_until REAL, task_complete INTEGER NOT NULL DEFAULT 0,
    success_run TEXT, success_end REAL,
    PRIMARY KEY (instance, dag_id)
) STRICT, WITHOUT ROWID;
INSERT INTO "airflow_dag" VALUES('http://airflow.example:8080','daily_fetch_bike_data',1790000005.0,1,1789996000.0,1,'f3',1790000005.0);
INSERT INTO "airflow_dag" VALUES('http://airflow.example:8080','daily_prediction',1790000005.0,1,1789996000.0,1,NULL,NULL);
INSERT INTO "airflow_dag" VALUES('http://airflow.example:8080','monitor_and_fine_tune',1790000005.0,1,1789996000.0,1,NULL,NULL);
CREATE TABLE airflow_instance (instance TEXT PRIMARY KEY, buckets TEXT NOT NULL) STRICT;
INSERT INTO "airflow_instance" VALUES('http://airflow.example:8080','[[10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0], [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0]]');
CREATE TABLE airflow_seen (
    instance TEXT, kind TEXT, dag_id TEXT, ended INTEGER, run_id TEXT, task_id TEXT, map_index INTEGER,
    PRIMARY KEY (instance, kind, dag_id, ended, run_id, task_id, map_index)
) STRICT, WITHOUT ROWID;
INSERT INTO "airflow_seen" VALUES('http://airflow.example:8080','run','daily_fetch_bike_data',1790000005000000,'f3','',-1);
INSERT INTO "airflow_seen" VALUES('http://airflow.example:8080','task','daily_fetch_bike_data',1789996000000000,'f1','fetch_to_bigquery',-1);
CREATE TABLE airflow_sum (
    instance TEXT, dag_id TEXT, task_id TEXT, key TEXT, field TEXT, take TEXT,
    total REAL NOT NULL, last_end REAL, problem TEXT,
    PRIMARY KEY (instance, dag_id, task_id, key, field, take)
) STRICT, WITHOUT ROWID;
INSERT INTO "airflow_sum" VALUES('http://airflow.example:8080','daily_fetch_bike_data','fetch_to_bigquery','records_count','','',207.0,1790000005.0,NULL);
CREATE TABLE airflow_total (
    instance TEXT, kind TEXT, dag_id TEXT, task_id TEXT, state TEXT,
    events INTEGER NOT NULL, counts TEXT NOT NULL, sum REAL NOT NULL, last_end REAL,
    PRIMARY KEY (instance, kind, dag_id, task_id, state)
) STRICT, WITHOUT ROWID;
INSERT INTO "airflow_total" VALUES('http://airflow.example:8080','run','daily_fetch_bike_data','','success',3,'[0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]',1115.0,1790000005.0);
INSERT INTO "airflow_total" VALUES('http://airflow.example:8080','run','daily_prediction','','failed',1,'[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]',100.0,1789998100.0);
INSERT INTO "airflow_total" VALUES('http://airflow.example:8080','task','daily_fetch_bike_data','fetch_to_bigquery','success',1,'[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]',1000.0,1789996000.0);
CREATE TABLE airflow_xcom (
    instance TEXT, dag_id TEXT, task_id TEXT, key TEXT, run_id TEXT NOT NULL, run_end REAL NOT NULL,
    content TEXT, problem TEXT,
    PRIMARY KEY (instance, dag_id, task_id, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE airflow_xcom_added (
    instance TEXT, dag_id TEXT, run_id TEXT, task_id TEXT, key TEXT, written TEXT NOT NULL, run_end REAL NOT NULL,
    PRIMARY KEY (instance, dag_id, run_id, task_id, key)
) STRICT, WITHOUT ROWID;
INSERT INTO "airflow_xcom_added" VALUES('http://airflow.example:8080','daily_fetch_bike_data','f1','fetch_to_bigquery','records_count','2026-09-21T13:06:40.000000Z',1789996000.0);
INSERT INTO "airflow_xcom_added" VALUES('http://airflow.example:8080','daily_fetch_bike_data','f2','fetch_to_bigquery','records_count','2026-09-21T13:25:00.000000Z',1789997100.0);
INSERT INTO "airflow_xcom_added" VALUES('http://airflow.example:8080','daily_fetch_bike_data','f3','fetch_to_bigquery','records_count','2026-09-21T14:13:25.000000Z',1790000005.0);
CREATE TABLE airflow_xcom_pending (
    instance TEXT, dag_id TEXT, run_id TEXT, run_end REAL, task_id TEXT, key TEXT, backlog INTEGER NOT NULL,
    PRIMARY KEY (instance, dag_id, run_id, task_id, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE reading (source TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
INSERT INTO "reading" VALUES('airflow','{"label_sets":[],"source":"airflow","identity":"http://airflow.example:8080 -","catalog":"8f1a26629d521dd2","read_at":1790000120.0,"queried_at":1790000120.0,"token":null,"observations":{"bike_records_ingested_total":{"observed_at":1790000005.0,"samples":[[[], 207.0]]},"bike_predictions_generated_total":{"observed_at":null,"samples":[[[], 0.0]]},"airflow_dag_run_duration_seconds":{"observed_at":1790000005.0,"samples":[[[["dag_id", "daily_fetch_bike_data"], ["state", "failed"]], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0.0], [[["dag_id", "daily_fetch_bike_data"], ["state", "success"]], [0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], 1115.0], [[["dag_id", "daily_prediction"], ["state", "failed"]], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 100.0], [[["dag_id", "daily_prediction"], ["state", "success"]], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0.0], [[["dag_id", "monitor_and_fine_tune"], ["state", "failed"]], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0.0], [[["dag_id", "monitor_and_fine_tune"], ["state", "success"]], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0.0]]},"airflow_task_duration_seconds":{"observed_at":1789996000.0,"samples":[[[["dag_id", "daily_fetch_bike_data"], ["task_id", "fetch_to_bigquery"], ["state", "failed"]], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0.0], [[["dag_id", "daily_fetch_bike_data"], ["task_id", "fetch_to_bigquery"], ["state", "success"]], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], 1000.0]]},"airflow_dag_runs_total":{"observed_at":1790000005.0,"samples":[[[["dag_id", "daily_fetch_bike_data"], ["state", "failed"]], 0.0], [[["dag_id", "daily_fetch_bike_data"], ["state", "success"]], 3.0], [[["dag_id", "daily_prediction"], ["state", "failed"]], 1.0], [[["dag_id", "daily_prediction"], ["state", "success"]], 0.0], [[["dag_id", "monitor_and_fine_tune"], ["state", "failed"]], 0.0], [[["dag_id", "monitor_and_fine_tune"], ["state", "success"]], 0.0]]},"airflow_dag_run_active_seconds":{"observed_at":1790000120.0,"samples":[[[["dag_id", "daily_fetch_bike_data"]], 0.0], [[["dag_id", "daily_prediction"]], 0.0], [[["dag_id", "monitor_and_fine_tune"]], 0.0]]},"airflow_dag_last_success_timestamp_seconds":{"observed_at":1790000005.0,"samples":[[[["dag_id", "daily_fetch_bike_data"]], 1790000005.0]]}},"gaps":[],"notes":[],"facts":{"engine":"Airflow 3.3.2","api":"v2","url":"http://airflow.example:8080","dags":"daily_fetch_bike_data, daily_prediction, monitor_and_fine_tune","missing_dags":"","pending_xcoms":0,"clock_ahead_seconds":0},"carries":[],"valid_until":null}');
INSERT INTO "reading" VALUES('audit','{"label_sets":[],"source":"audit","identity":"bd9a40c4f4879319","catalog":"8f1a26629d521dd2","read_at":1790000120.0,"queried_at":1790000120.0,"token":"9855fc26464190a1311ce8bb","observations":{"bike_model_r2_champion_current":{"observed_at":1789913600.0,"samples":[[[], 0.7]]},"bike_model_deployments_total":{"observed_at":1789913600.0,"samples":[[[["decision", "deploy"]], 3.0], [[["decision", "skip"]], 2.0], [[["decision", "reject"]], 1.0]]},"bike_training_runs_total":{"observed_at":1789913600.0,"samples":[[[["status", "success"]], 3.0], [[["status", "failed"]], 1.0]]}},"gaps":[["bike_model_r2_champion_baseline", "the table has no column champion_r2_baseline"], ["bike_model_r2_challenger_current", "the table has no column r2_current"], ["bike_model_r2_challenger_baseline", "the table has no column r2_baseline"], ["bike_model_rmse_production", "the table has no column rmse"], ["bike_model_improvement_delta", "the table has no column model_improvement"], ["bike_drift_detected", "the table has no column drift_detected"], ["bike_drift_share", "the table has no column drift_share"], ["bike_drifted_features_count", "the table has no column drifted_features_count"]],"notes":[],"facts":{"engine":"duckdb","location":"duckdb:audit.duckdb","table":"monitoring_audit.logs","rows":3,"last_record_at":1789913600.0,"sample_data":false,"missing_columns":"env, champion_r2_baseline, r2_current, r2_baseline, rmse, model_improvement, drift_detected, drift_share, drifted_features_count"},"carries":[["bike_model_deployments_total", [["decision", "deploy"]], 2.0, 1.0], ["bike_model_deployments_total", [["decision", "skip"]], 1.0, 1.0], ["bike_model_deployments_total", [["decision", "reject"]], 0.0, 1.0], ["bike_training_runs_total", [["status", "success"]], 2.0, 1.0], ["bike_training_runs_total", [["status", "failed"]], 0.0, 1.0]],"valid_until":null}');
COMMIT;
PRAGMA user_version = 2;
