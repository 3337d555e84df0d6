#!/bin/sh
# Run once before Airflow's services, as root: folders, secrets that they share, the database, and an empty audit log.
set -eu

if [ "$(id -u)" = 0 ]; then
  # A volume that another container mounted first belongs to root.
  chown airflow:0 /audit /shared /warehouse
  exec setpriv --reuid=airflow --regid=0 --clear-groups env HOME=/home/airflow sh "$0"
fi

umask 077
# Made once and kept: every process of Airflow signs and checks with the same secrets.
for name in jwt api; do
  [ -s "/shared/$name" ] || python3 -c 'import secrets; print(secrets.token_hex(64), end="")' > "/shared/$name"
done
python3 - <<'PY'
import json, os
with open("/shared/passwords.json", "w") as file:
    json.dump({os.environ["AIRFLOW_USER"]: os.environ["AIRFLOW_USER_PASSWORD"]}, file)
PY

airflow db migrate
umask 022
# The exporter finds a table on day one, with nothing in it yet.
python3 -m bike_pipeline.audit
