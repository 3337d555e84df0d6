#!/bin/sh
# As the original: group-writable files, and the arguments are those of `airflow`.
set -eu
umask 0002
exec airflow "$@"
