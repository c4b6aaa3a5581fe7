#!/bin/sh
# The links of splitreg.link_emulator in the kernel: two network namespaces, joined by a veth pair with tc netem and a rate
# limit at both ends. Needs root, iproute2, and the kernel module sch_netem.
#
#   scripts/netem.sh up lora               # or lte-m, 4g, wifi; server at 10.77.0.1, device at 10.77.0.2
#   scripts/netem.sh server splitreg serve my-bundle --host 10.77.0.1 --insecure &
#   scripts/netem.sh device splitreg send my-bundle photo.jpg --to http://10.77.0.1:8080 --outbox waiting.db
#   scripts/netem.sh cut                   # start an outage
#   scripts/netem.sh heal                  # end it
#   scripts/netem.sh set 4g                # switch to another link
#   scripts/netem.sh down                  # remove the namespaces
#   scripts/netem.sh check                 # a short test of all this, without splitreg
set -eu

SERVER=splitreg-server DEVICE=splitreg-device
SERVER_ADDRESS=10.77.0.1 DEVICE_ADDRESS=10.77.0.2

profile() { # rate up, rate down, delay, jitter, loss: PRESETS of splitreg/link_emulator.py
    case "$1" in
        lora) echo "37.5kbit 37.5kbit 20ms 5ms 1%" ;;
        lte-m) echo "375kbit 300kbit 50ms 15ms 0.5%" ;;
        4g) echo "10mbit 30mbit 25ms 5ms 0.2%" ;;
        wifi) echo "54mbit 54mbit 1.5ms 0.5ms 0.1%" ;;
        *) echo "no link '$1'. Available: lora, lte-m, 4g, wifi" >&2; exit 2 ;;
    esac
}

shape() { # namespace, interface, rate, delay, jitter, loss
    ip netns exec "$1" tc qdisc replace dev "$2" root netem rate "$3" delay "$4" "$5" distribution normal loss "$6" limit 1000
}

set_link() {
    fields=$(profile "$1")
    # shellcheck disable=SC2086  # the fields are meant to be split
    set -- $fields
    shape "$DEVICE" device0 "$1" "$3" "$4" "$5" && shape "$SERVER" server0 "$2" "$3" "$4" "$5"
}

remove() {
    for name in "$SERVER" "$DEVICE"; do
        if ip netns list | grep -qw "$name"; then ip netns delete "$name"; fi
    done
}

up() {
    profile "$1" >/dev/null
    remove
    ip netns add "$SERVER"
    ip netns add "$DEVICE"
    ip link add server0 netns "$SERVER" type veth peer name device0 netns "$DEVICE"
    ip -n "$SERVER" address add "$SERVER_ADDRESS/24" dev server0
    ip -n "$DEVICE" address add "$DEVICE_ADDRESS/24" dev device0
    ip -n "$SERVER" link set lo up
    ip -n "$DEVICE" link set lo up
    ip -n "$SERVER" link set server0 up
    ip -n "$DEVICE" link set device0 up
    set_link "$1" || { remove; echo "the kernel has no netem; load it with: modprobe sch_netem" >&2; exit 1; }
}

check() {
    trap remove EXIT
    for link in lora lte-m 4g wifi; do
        up "$link"
        echo "== $link"
        ip netns exec "$DEVICE" ping -c 5 -i 0.2 -q "$SERVER_ADDRESS" | tail -2
    done
    ip -n "$DEVICE" link set device0 down
    if ip netns exec "$DEVICE" ping -c 1 -W 1 -q "$SERVER_ADDRESS" >/dev/null 2>&1; then
        echo "the link was cut, but packets arrived" >&2
        exit 1
    fi
    echo "cut: no packets arrive"
}

case "${1:-}" in
    up) up "${2:?which link}" ;;
    set) set_link "${2:?which link}" ;;
    cut) ip -n "$DEVICE" link set device0 down ;;
    heal) ip -n "$DEVICE" link set device0 up ;;
    down) remove ;;
    server) shift; exec ip netns exec "$SERVER" "$@" ;;
    device) shift; exec ip netns exec "$DEVICE" "$@" ;;
    check) check ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
