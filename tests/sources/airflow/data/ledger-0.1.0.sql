-- A state file as version 0.1.0 wrote it: `sqlite3 ledger.sqlite3 .dump`, the Airflow's address replaced.
BEGIN TRANSACTION;
CREATE TABLE airflow_dag (
    instance TEXT, dag_id TEXT,
    run_until REAL, run_complete INTEGER NOT NULL DEFAULT 0,
    task_until REAL, task_complete INTEGER NOT NULL DEFAULT 0,
    success_run TEXT, success_end REAL,
    PRIMARY KEY (instance, dag_id)
) STRICT, WITHOUT ROWID;
INSERT INTO "airflow_dag" VALUES('http://airflow.test:8080','daily_fetch_bike_data',1749999990.0,1,1749999949.0,1,'f0',1749999950.0);
INSERT INTO "airflow_dag" VALUES('http://airflow.test:8080','daily_prediction',1749999990.0,1,1749999949.0,1,'late',1749999990.0);
INSERT INTO "airflow_dag" VALUES('http://airflow.test:8080','monitor_and_fine_tune',1749999990.0,1,1749999949.0,1,NULL,NULL);
CREATE TABLE airflow_instance (instance TEXT PRIMARY KEY, buckets TEXT NOT NULL) STRICT;
INSERT INTO "airflow_instance" VALUES('http://airflow.test:8080','[[10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0], [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0]]');
CREATE TABLE airflow_seen (
    instance TEXT, kind TEXT, dag_id TEXT, ended INTEGER, run_id TEXT, task_id TEXT, map_index INTEGER,
    PRIMARY KEY (instance, kind, dag_id, ended, run_id, task_id, map_index)
) STRICT, WITHOUT ROWID;
INSERT INTO "airflow_seen" VALUES('http://airflow.test:8080','run','daily_fetch_bike_data',1749999950000000,'f0','',-1);
INSERT INTO "airflow_seen" VALUES('http://airflow.test:8080','run','daily_prediction',1749999920000000,'p','',-1);
INSERT INTO "airflow_seen" VALUES('http://airflow.test:8080','run','daily_prediction',1749999940000000,'q','',-1);
INSERT INTO "airflow_seen" VALUES('http://airflow.test:8080','run','daily_prediction',1749999990000000,'late','',-1);
INSERT INTO "airflow_seen" VALUES('http://airflow.test:8080','task','daily_fetch_bike_data',1749999949000000,'f0','fetch_to_bigquery',-1);
CREATE TABLE airflow_sum (
    instance TEXT, dag_id TEXT, task_id TEXT, key TEXT, field TEXT, take TEXT,
    total REAL NOT NULL, last_end REAL, problem TEXT,
    PRIMARY KEY (instance, dag_id, task_id, key, field, take)
) STRICT, WITHOUT ROWID;
INSERT INTO "airflow_sum" VALUES('http://airflow.test:8080','daily_fetch_bike_data','fetch_to_bigquery','records_count','','',303.0,1749999950.0,NULL);
INSERT INTO "airflow_sum" VALUES('http://airflow.test:8080','daily_prediction','predict_daily_data','predictions_count','','',17.0,1749999940.0,'not a number: ''many''');
CREATE TABLE airflow_total (
    instance TEXT, kind TEXT, dag_id TEXT, task_id TEXT, state TEXT,
    events INTEGER NOT NULL, counts TEXT NOT NULL, sum REAL NOT NULL, last_end REAL,
    PRIMARY KEY (instance, kind, dag_id, task_id, state)
) STRICT, WITHOUT ROWID;
INSERT INTO "airflow_total" VALUES('http://airflow.test:8080','run','daily_fetch_bike_data','','failed',1,'[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]',100.0,1749996100.0);
INSERT INTO "airflow_total" VALUES('http://airflow.test:8080','run','daily_fetch_bike_data','','success',3,'[0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]',123.0,1749999950.0);
INSERT INTO "airflow_total" VALUES('http://airflow.test:8080','run','daily_prediction','','success',3,'[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]',30.0,1749999990.0);
INSERT INTO "airflow_total" VALUES('http://airflow.test:8080','task','daily_fetch_bike_data','fetch_to_bigquery','success',3,'[0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]',87.0,1749999949.0);
CREATE TABLE airflow_xcom (
    instance TEXT, dag_id TEXT, task_id TEXT, key TEXT, run_id TEXT NOT NULL, run_end REAL NOT NULL,
    content TEXT, problem TEXT,
    PRIMARY KEY (instance, dag_id, task_id, key)
) STRICT, WITHOUT ROWID;
INSERT INTO "airflow_xcom" VALUES('http://airflow.test:8080','daily_prediction','predict_daily_data','mae','late',1749999990.0,NULL,NULL);
INSERT INTO "airflow_xcom" VALUES('http://airflow.test:8080','daily_prediction','predict_daily_data','r2','late',1749999990.0,NULL,NULL);
INSERT INTO "airflow_xcom" VALUES('http://airflow.test:8080','daily_prediction','predict_daily_data','rmse','late',1749999990.0,NULL,NULL);
CREATE TABLE airflow_xcom_added (
    instance TEXT, dag_id TEXT, run_id TEXT, task_id TEXT, key TEXT, written TEXT NOT NULL, run_end REAL NOT NULL,
    PRIMARY KEY (instance, dag_id, run_id, task_id, key)
) STRICT, WITHOUT ROWID;
INSERT INTO "airflow_xcom_added" VALUES('http://airflow.test:8080','daily_fetch_bike_data','f0','fetch_to_bigquery','records_count','2025-06-15T15:05:50.000000Z',1749999950.0);
INSERT INTO "airflow_xcom_added" VALUES('http://airflow.test:8080','daily_fetch_bike_data','f1','fetch_to_bigquery','records_count','2025-06-15T14:15:50.000000Z',1749996950.0);
INSERT INTO "airflow_xcom_added" VALUES('http://airflow.test:8080','daily_fetch_bike_data','f2','fetch_to_bigquery','records_count','2025-06-15T13:25:50.000000Z',1749993950.0);
INSERT INTO "airflow_xcom_added" VALUES('http://airflow.test:8080','daily_prediction','p','predict_daily_data','predictions_count','2025-06-15T15:05:20.000000Z',1749999920.0);
CREATE TABLE airflow_xcom_pending (
    instance TEXT, dag_id TEXT, run_id TEXT, run_end REAL, task_id TEXT, key TEXT, backlog INTEGER NOT NULL,
    PRIMARY KEY (instance, dag_id, run_id, task_id, key)
) STRICT, WITHOUT ROWID;
INSERT INTO "airflow_xcom_pending" VALUES('http://airflow.test:8080','daily_prediction','late',1749999990.0,'predict_daily_data','predictions_count',0);
CREATE TABLE reading (source TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
INSERT INTO "reading" VALUES('airflow','{"label_sets":[],"source":"airflow","identity":"http://airflow.test:8080 -","catalog":"8f1a26629d521dd2","read_at":1750000000.0,"queried_at":1750000000.0,"token":null,"observations":{"bike_records_ingested_total":{"observed_at":1749999950.0,"samples":[[[], 303.0]]},"bike_predictions_generated_total":{"observed_at":1749999940.0,"samples":[[[], 17.0]]},"airflow_dag_run_duration_seconds":{"observed_at":1749999990.0,"samples":[[[["dag_id", "daily_fetch_bike_data"], ["state", "failed"]], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 100.0], [[["dag_id", "daily_fetch_bike_data"], ["state", "success"]], [0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 123.0], [[["dag_id", "daily_prediction"], ["state", "failed"]], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0.0], [[["dag_id", "daily_prediction"], ["state", "success"]], [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 30.0], [[["dag_id", "monitor_and_fine_tune"], ["state", "failed"]], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0.0], [[["dag_id", "monitor_and_fine_tune"], ["state", "success"]], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0.0]]},"airflow_task_duration_seconds":{"observed_at":1749999949.0,"samples":[[[["dag_id", "daily_fetch_bike_data"], ["task_id", "fetch_to_bigquery"], ["state", "failed"]], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0.0], [[["dag_id", "daily_fetch_bike_data"], ["task_id", "fetch_to_bigquery"], ["state", "success"]], [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0], 87.0]]},"airflow_dag_runs_total":{"observed_at":1749999990.0,"samples":[[[["dag_id", "daily_fetch_bike_data"], ["state", "failed"]], 1.0], [[["dag_id", "daily_fetch_bike_data"], ["state", "success"]], 3.0], [[["dag_id", "daily_prediction"], ["state", "failed"]], 0.0], [[["dag_id", "daily_prediction"], ["state", "success"]], 3.0], [[["dag_id", "monitor_and_fine_tune"], ["state", "failed"]], 0.0], [[["dag_id", "monitor_and_fine_tune"], ["state", "success"]], 0.0]]},"airflow_dag_run_active_seconds":{"observed_at":1750000000.0,"samples":[[[["dag_id", "daily_fetch_bike_data"]], 0.0], [[["dag_id", "daily_prediction"]], 0.0], [[["dag_id", "monitor_and_fine_tune"]], 0.0]]},"airflow_dag_last_success_timestamp_seconds":{"observed_at":1749999990.0,"samples":[[[["dag_id", "daily_fetch_bike_data"]], 1749999950.0], [[["dag_id", "daily_prediction"]], 1749999990.0]]}},"gaps":[["bike_prediction_rmse", "newest successful run: XCom daily_prediction/predict_daily_data/rmse was not pushed"], ["bike_prediction_mae", "newest successful run: XCom daily_prediction/predict_daily_data/mae was not pushed"], ["bike_prediction_r2", "newest successful run: XCom daily_prediction/predict_daily_data/r2 was not pushed"]],"notes":["bike_predictions_generated_total: XCom daily_prediction/predict_daily_data/predictions_count of the newest run is left out: not a number: ''many''"],"facts":{"engine":"Airflow 3.3.2","api":"v2","url":"http://airflow.test:8080","dags":"daily_fetch_bike_data, daily_prediction, monitor_and_fine_tune","missing_dags":"","pending_xcoms":1,"clock_ahead_seconds":0},"carries":[],"valid_until":null}');
COMMIT;
PRAGMA user_version = 2;
