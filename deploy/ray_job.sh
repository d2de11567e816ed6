#!/bin/sh
# Submits a run as a Ray job to a cluster whose nodes have Upcycle's dependencies and share the folder of the runs.
#   UPCYCLE_RUNS=/mnt/cluster/runs deploy/ray_job.sh http://HEAD:8265 PRESET [options of `upcycle run`]
# The job stops with a checkpoint: Ray's own three seconds between SIGTERM and SIGKILL would lose it. No secret belongs
# into the environment of a job, which Ray shows.
set -eu
address=$1
shift
cd "$(dirname "$0")/.."
runs=${UPCYCLE_RUNS:-$PWD/runs}
case $runs in
/*) ;;
*) echo "ray_job.sh: UPCYCLE_RUNS = $runs: is no absolute path, so every job would have its own; begin it with /" >&2 && exit 2 ;;
esac
PATH=$PATH:$PWD/.venv/bin
exec ray job submit --address "$address" --working-dir . \
  --runtime-env-json "{\"env_vars\": {\"UPCYCLE_RUNS\": \"$runs\", \"RAY_JOB_STOP_WAIT_TIME_S\": \"120\"}}" \
  -- python -m orchestrator.cli run "$@"
