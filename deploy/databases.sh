#!/bin/sh
# Run once by the PostgreSQL image, when its volume is empty: MLflow's database beside the one of sweeps and schedules.
set -eu
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --command "CREATE DATABASE mlflow"
