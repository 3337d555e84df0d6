BEGIN TRANSACTION;
CREATE TABLE airflow_dag (
    instance TEXT, dag_id TEXT,
    run_until REAL, run_complete INTEGER NOT NULL DEFAULT 0,
    task_until REAL, task_complete INTEGER NOT NULL DEFAULT 0,
    success_run TEXT, success_end REAL,
    PRIMARY KEY (instance, dag_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE airflow_instance (instance TEXT PRIMARY KEY, buckets TEXT NOT NULL) STRICT;
CREATE TABLE airflow_seen (
    instance TEXT, kind TEXT, dag_id TEXT, ended INTEGER, run_id TEXT, task_id TEXT, map_index INTEGER,
    PRIMARY KEY (instance, kind, dag_id, ended, run_id, task_id, map_index)
) STRICT, WITHOUT ROWID;
CREATE TABLE airflow_sum (
    instance TEXT, dag_id TEXT, task_id TEXT, key TEXT, field TEXT, take TEXT,
    total REAL NOT NULL, last_end REAL, problem TEXT,
    PRIMARY KEY (instance, dag_id, task_id, key, field, take)
) STRICT, WITHOUT ROWID;
CREATE TABLE airflow_total (
    instance TEXT, kind TEXT, dag_id TEXT, task_id TEXT, state TEXT,
    events INTEGER NOT NULL, counts TEXT NOT NULL, sum REAL NOT NULL, last_end REAL,
    PRIMARY KEY (instance, kind, dag_id, task_id, state)
) STRICT, WITHOUT ROWID;
CREATE TABLE airflow_xcom (
    instance TEXT, dag_id TEXT, task_id TEXT, key TEXT, run_id TEXT NOT NULL, run_end REAL NOT NULL,
    content TEXT, problem TEXT,
    PRIMARY KEY (instance, dag_id, task_id, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE airflow_xcom_added (
    instance TEXT, dag_id TEXT, run_id TEXT, task_id TEXT, key TEXT, written TEXT NOT NULL, run_end REAL NOT NULL,
    PRIMARY KEY (instance, dag_id, run_id, task_id, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE airflow_xcom_pending (
    instance TEXT, dag_id TEXT, run_id TEXT, run_end REAL, task_id TEXT, key TEXT, backlog INTEGER NOT NULL,
    PRIMARY KEY (instance, dag_id, run_id, task_id, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE reading (source TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
INSERT INTO "reading" VALUES('audit','{"label_sets":[[["model", "a"]], [["model", "b"]], [["model", "steady"]]],"source":"audit","identity":"bd9a40c4f4879319","catalog":"7692f27beefb68cb","read_at":1790000120.0,"queried_at":1790000120.0,"token":"0b8f762d0fa17f02931730ef","observations":{"shop_r2":{"observed_at":1789913600.0,"grid":[[[], "AAAAAAAA4D8AAAAAAADgPwAAAAAAAOA/"]]},"shop_releases_total":{"observed_at":1789913600.0,"grid":[[[["decision", "go"]], "AAAAAAAACEAAAAAAAAAAQAAAAAAAAABA"], [[["decision", "stop"]], "AAAAAAAA8D8AAAAAAAAAAAAAAAAAAAAA"]]}},"gaps":[],"notes":["1 row dated in the future: counted, but they give no gauge until their time has come"],"facts":{"engine":"duckdb","location":"duckdb:audit.duckdb","table":"monitoring_audit.logs","rows":6,"last_record_at":1789913600.0,"label_sets":3,"series_dropped":0,"sample_data":false,"missing_columns":null},"carries":[["shop_releases_total", [["model", "a"], ["decision", "go"]], 2.0, 1.0], ["shop_releases_total", [["model", "a"], ["decision", "stop"]], 0.0, 1.0], ["shop_releases_total", [["model", "gone"], ["decision", "go"]], 0.0, 2.0], ["shop_releases_total", [["model", "gone"], ["decision", "stop"]], 0.0, 0.0], ["shop_releases_total", [["model", "new"], ["decision", "go"]], 0.0, 0.0], ["shop_releases_total", [["model", "new"], ["decision", "stop"]], 0.0, 1.0]],"valid_until":1790038800.0}');
COMMIT;
PRAGMA user_version = 2;
