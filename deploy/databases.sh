#!/bin/sh
# Creates MLflow's database beside the database of sweeps and schedules. The PostgreSQL image runs
# this script once, when its volume is empty.
set -eu
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --command "CREATE DATABASE mlflow"
