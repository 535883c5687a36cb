#!/bin/sh
# The bank of compose.yaml, which is the Host: makes the task file, looks at both machines, trains.
set -eu
. "$(dirname "$0")/party.sh"
: "${ADDRESS:=tcp://bank:7300}"
: "${BIND:=tcp://*:7300}"

hand_over_key bank
make_table bank
wait_for shop.pub
if ! heterofed task show "$TASK" >/dev/null 2>&1; then
    heterofed task new "$TASK" --host bank --address "$ADDRESS" --bind "$BIND" \
        --collaborator "shop=$(head -n 1 "$HANDOVER/shop.pub")" \
        --table --plan max_rounds=10 --plan batch_size=32 \
        >/dev/null
fi
cp "$HETEROFED_HOME/tasks/$TASK.toml" "$HANDOVER/$TASK.tmp"
mv "$HANDOVER/$TASK.tmp" "$HANDOVER/$TASK.toml"
heterofed doctor "$TASK" --ids 1800
exec heterofed table train project/data/bank.csv --task "$TASK" --id customer \
    --label defaulted
