#!/bin/sh
# Replaces the entrypoint of the PostgreSQL image where the image does not run: the same steps, from its documentation.
# It creates a new database with its user and password, and then runs the scripts in /docker-entrypoint-initdb.d over
# the socket.
set -eu
PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -1):$PATH
scratch=$(mktemp -d)
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf '%s\n' "$POSTGRES_PASSWORD" > "$scratch/password"
    # shellcheck disable=SC2086
    initdb --username="$POSTGRES_USER" --pwfile="$scratch/password" --no-sync $POSTGRES_INITDB_ARGS > "$scratch/log"
    rm "$scratch/password"
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
    pg_ctl --wait --log="$scratch/log" --options="-c listen_addresses=''" start > /dev/null
    psql --quiet --username "$POSTGRES_USER" --dbname postgres --command "CREATE DATABASE \"$POSTGRES_DB\""
    for script in /docker-entrypoint-initdb.d/*.sh; do sh "$script"; done
    pg_ctl --wait --mode=fast stop > /dev/null
fi
exec "$@"
