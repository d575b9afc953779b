#!/usr/bin/env bash
# Starts a PostgreSQL server and an MLflow server that uses it, only for this machine (127.0.0.1). It cannot run as root.
#
#   pipeline/deploy/postgresql.sh FOLDER            # prints the two settings that studies need; Ctrl-C stops both servers
#
set -euo pipefail

FOLDER="$(realpath -m "${1:?expected a folder for the data}")"
PORT="${PGPORT:-54329}"
MLFLOW_PORT="${MLFLOW_PORT:-5000}"
BIN="$(dirname "$(command -v initdb || ls /usr/lib/postgresql/*/bin/initdb | tail -1)")"

mkdir -p "$FOLDER"
if [[ ! -d "$FOLDER/db" ]]; then "$BIN/initdb" -D "$FOLDER/db" -U variants -A trust >/dev/null; fi
"$BIN/pg_ctl" -D "$FOLDER/db" -w -l "$FOLDER/postgresql.log" -o "-p $PORT -k $FOLDER -c listen_addresses=127.0.0.1" start >/dev/null
trap '"$BIN/pg_ctl" -D "$FOLDER/db" -m fast stop >/dev/null' EXIT
for name in optuna mlflow; do
    "$BIN/createdb" -h 127.0.0.1 -p "$PORT" -U variants "$name" 2>/dev/null || true
done

echo "export MLFLOW_TRACKING_URI=http://127.0.0.1:$MLFLOW_PORT"
echo "--storage postgresql://variants@127.0.0.1:$PORT/optuna"
MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false python -m mlflow server \
    --host 127.0.0.1 --port "$MLFLOW_PORT" --workers 1 --artifacts-destination "$FOLDER/artifacts" --serve-artifacts \
    --backend-store-uri "postgresql://variants@127.0.0.1:$PORT/mlflow"
