#!/bin/sh
# Run once before Airflow's services, as root: folders, secrets that they share, the database, and an empty audit log.
set -eu

if [ "$(id -u)" = 0 ]; then
  # What the stack mounts from the checkout is read by other users than its owner.
  unreadable=$(cd /checkout && setpriv --reuid=65534 --regid=65534 --clear-groups \
    find . \( ! -readable -o -type d ! -executable \) -print 2>/dev/null || true)
  if [ -n "$unreadable" ]; then
    echo "error: containers cannot read these files of the checkout (was it made under umask 077?):" >&2
    echo "$unreadable" | sed 's/^/  /' >&2
    echo "Make them readable, beside docker-compose.yaml, and start again:" >&2
    echo "  chmod -R go+rX prometheus.yml grafana/provisioning docker/airflow/dags" >&2
    exit 1
  fi
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

attempt=1
until airflow db migrate; do
  [ "$attempt" -lt 10 ] || { echo "error: Airflow's database could not be set up in $attempt attempts" >&2; exit 1; }
  echo "airflow db migrate failed (attempt $attempt of 10): again in 3 s" >&2
  attempt=$((attempt + 1))
  sleep 3
done
umask 022
# The exporter finds a table on day one, with nothing in it yet. Airflow starts without it: the first run makes it.
python3 -m bike_pipeline.audit || echo "warning: the audit log's table was not made, for the reason above" >&2
