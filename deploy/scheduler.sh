#!/usr/bin/env bash
# Joins the Ray cluster at $1 with no processors of its own, and runs the scheduler beside it. Who starts trials on a
# cluster must be a node of it. If either ends, so does the other: the container is then started anew and joins again.
set -uo pipefail

rm -rf /tmp/ray/session_*  # of a node that ended here
ray start --block --address="$1" --num-cpus=0 --num-gpus=0 --object-store-memory=100000000 &
node=$!
# A night that is due begins at once, and would find no node to begin on.
until [ -S /tmp/ray/session_latest/sockets/raylet ]; do
    kill -0 "$node" 2> /dev/null || { wait "$node"; exit; }
    sleep 0.5
done
sweep scheduler &
scheduler=$!

# The scheduler lets the nights that run end in order, so it is asked first, and waited for.
trap 'kill -TERM "$scheduler"' TERM INT

wait -n "$node" "$scheduler"
kill -TERM "$scheduler" 2> /dev/null
wait "$scheduler"
code=$?
kill -TERM "$node" 2> /dev/null
wait "$node"
exit "$code"
