# What both parties of compose.yaml do; the scripts of the two read this file.
: "${HANDOVER:=/handover}"
: "${TASK:=joint}"

# Make a key pair, unless there is one, and hand over the public key.
hand_over_key() {
    heterofed keys show "$1" >/dev/null 2>&1 || heterofed keys new "$1" >/dev/null
    heterofed keys show "$1" >"$HANDOVER/$1.tmp"
    mv "$HANDOVER/$1.tmp" "$HANDOVER/$1.pub"
}

# Wait for a file that the other party hands over.
wait_for() {
    seconds=0
    until [ -s "$HANDOVER/$1" ]; do
        [ "$seconds" -lt 300 ] || { echo "$1 did not come in 300 s: is the other party up?" >&2; exit 1; }
        seconds=$((seconds + 1))
        sleep 1
    done
}

# Make up a table; an organisation has its own, and mounts it instead.
make_table() {
    [ -s "project/data/$1.csv" ] && return
    [ -d project ] || heterofed new project >/dev/null
    (cd project && python make_data.py)
}
