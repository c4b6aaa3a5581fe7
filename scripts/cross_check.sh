#!/usr/bin/env bash
# Checks that the rANS kernel writes the same bytes on other CPUs: compiles it for 64- and 32-bit ARM, IBM Z (big-endian) and
# 32-bit x86, runs it under qemu over the golden corpus, and decodes damaged payloads. On Debian:
#
#   apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-s390x-linux-gnu libc6-dev-s390x-cross \
#     gcc-arm-linux-gnueabihf libc6-dev-armhf-cross gcc-i686-linux-gnu libc6-dev-i386-cross
set -euo pipefail
cd "$(dirname "$0")/.."
packets=${1:-20000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

run() { # RUNNER COMPILER FLAGS...
  local runner=$1
  shift
  for level in -O1 -O3; do
    "$@" $level -std=gnu11 -Wall -Wextra -static -o "$work/driver" scripts/kernel_driver.c
    printf '%s %s: ' "$*" $level
    $runner "$work/driver" "$work/corpus" "$packets"
  done
}

missing=()
for tool in {aarch64-linux-gnu,s390x-linux-gnu,arm-linux-gnueabihf,i686-linux-gnu}-gcc qemu-{aarch64,s390x,arm,i386}; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "cross_check: missing ${missing[*]}; see the top of this script for the packages to install" >&2
  exit 77
fi
"${PYTHON:-python}" scripts/dump_kernel_corpus.py "$work/corpus"
run "" gcc
run qemu-aarch64 aarch64-linux-gnu-gcc
run qemu-s390x s390x-linux-gnu-gcc
run qemu-arm arm-linux-gnueabihf-gcc
run qemu-i386 i686-linux-gnu-gcc -msse2 -mfpmath=sse
