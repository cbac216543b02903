# Run once, when the server's folder is new: a database for each of its three users' sake.
set -e
for name in rollout registry mlflow; do createdb --username "$POSTGRES_USER" "$name"; done
