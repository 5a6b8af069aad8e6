# Sourced by the scripts of this repository: says what is going on, with times,
# and sees to it that what a step needs is there.

# Prints to standard error, so that standard output is free for results.
say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# with_progress WHAT COMMAND…: runs the command and says every 15 s that it still runs.
with_progress() {
  local what=$1 start=$SECONDS told=0
  shift
  "$@" &
  local pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if ((SECONDS - start >= told + 15)); then
      told=$((SECONDS - start))
      say "  … $what (${told} s)"
    fi
  done
  wait "$pid"
}

# need COMMAND PACKAGE: installs the Debian package where the command is missing.
need() {
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "  installing $2, for $1"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q "$2" >/dev/null 2>&1 </dev/null ||
      { apt-get update -q >/dev/null 2>&1 && apt-get install -y -q "$2" </dev/null >&2; } ||
      die "cannot install $2: see the lines above"
  else
    die "$1 is missing; install it with: sudo apt-get install $2"
  fi
}

# Rust and Go are not installed behind anybody's back: both want a newer version
# than distributions carry.
need_rust() {
  command -v cargo >/dev/null || die "cargo is missing; install Rust with: curl -fsSL https://sh.rustup.rs | sh"
}

need_go() {
  command -v go >/dev/null ||
    die "go is missing; install Go 1.26 or newer: https://go.dev/doc/install"
  local minor
  minor=$(go env GOVERSION | sed -nE 's/^go1\.([0-9]+).*/\1/p')
  # From 1.21 on, go fetches by itself the version that a module asks for.
  [ "${minor:-0}" -ge 21 ] ||
    die "$(go version) is too old; install Go 1.26 or newer: https://go.dev/doc/install"
}
