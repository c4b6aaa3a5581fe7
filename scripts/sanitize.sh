#!/usr/bin/env bash
# Runs the rANS kernel under gcc's address and undefined-behaviour sanitizers: the golden corpus, then damaged payloads.
# The driver is in C, so that nothing has to be preloaded and every buffer has exactly the size that it may use.
set -euo pipefail
cd "$(dirname "$0")/.."
packets=${1:-20000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compiler=${CC:-gcc}
flags=(-g -O1 -std=gnu11 -Wall -Wextra -fsanitize=address,undefined -fno-sanitize-recover=all)
if ! echo 'int main(void) { return 0; }' | "$compiler" "${flags[@]}" -x c -o "$work/probe" - 2>"$work/why" || ! "$work/probe"; then
  echo "sanitize: $compiler cannot build with the sanitizers (on Debian, libasan and libubsan are part of gcc):" >&2
  head -n 3 "$work/why" >&2
  exit 77
fi
"${PYTHON:-python}" scripts/dump_kernel_corpus.py "$work/corpus"
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
# SR_PLAIN: sanitizers do not support target_clones, so each version of the functions is built separately.
for target in "" -march=x86-64-v3; do
  if [ -n "$target" ] && ! grep -qw avx2 /proc/cpuinfo 2>/dev/null; then continue; fi
  "$compiler" "${flags[@]}" -DSR_PLAIN ${target:+"$target"} -o "$work/driver" scripts/kernel_driver.c
  printf 'sanitize %s: ' "${target:-plain}"
  "$work/driver" "$work/corpus" "$packets"
done
