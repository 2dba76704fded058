#!/usr/bin/env bash
# Runs the scheduler on a node of the Ray cluster at $1. Only a node of the cluster can start trials
# on it, so this container joins the cluster, without offering any processors. If the node or the
# scheduler ends, the script ends the other one. Compose then restarts the container, which joins again.
set -uo pipefail

rm -rf /tmp/ray/session_*  # left behind by an earlier node in this container
ray start --block --address="$1" --num-cpus=0 --num-gpus=0 --object-store-memory=100000000 &
node=$!
# Wait for the node: the scheduler starts a due night at once, and the night needs the node.
until [ -S /tmp/ray/session_latest/sockets/raylet ]; do
    kill -0 "$node" 2> /dev/null || { wait "$node"; exit; }
    sleep 0.5
done
sweep scheduler &
scheduler=$!

# Stop the scheduler first and wait for it, so that it can stop its nights cleanly.
trap 'kill -TERM "$scheduler"' TERM INT

wait -n "$node" "$scheduler"
kill -TERM "$scheduler" 2> /dev/null
wait "$scheduler"
code=$?
kill -TERM "$node" 2> /dev/null
wait "$node"
exit "$code"
