# shellcheck shell=bash
# Sourced after steps.sh: a Docker engine for those who need one.
#
#   docker_engine_start   sets DOCKER_HOST to an engine that runs already; else, as
#                         root, starts one of its own, with a socket and a data
#                         folder of its own, and installs docker.io for it on
#                         Debian and Ubuntu; else says what is missing and fails
#   docker_engine_stop    stops it, if it was started here; call it in the EXIT trap
#
# The data folder stays, with the images in it; one engine at a time has it.

docker_engine_pid='' docker_engine_work='' docker_engine_data=''

docker_engine_start() {
  if docker_engine_answers; then
    docker_engine_found
    return
  fi
  [ -z "${DOCKER_HOST:-}" ] ||
    die "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST: $(docker version 2>&1 >/dev/null | tail -n 1)"
  [ "$(id -u)" = 0 ] ||
    die "no Docker engine answers; start one and let this user use it (sudo systemctl start docker;
sudo usermod -aG docker $(id -un), and log in again), set DOCKER_HOST, or run this as root: then it starts one"
  need dockerd docker.io
  # A package of its own from Debian 13 on.
  need docker docker-cli
  if docker_engine_answers; then
    # Where there is systemd, the package starts one.
    docker_engine_found
    return
  fi
  need jq jq
  need setpriv util-linux
  docker_engine_alone
  docker_engine_cgroups
  docker_engine_run
}

docker_engine_stop() {
  [ -n "$docker_engine_work" ] || return 0
  if [ -n "$docker_engine_pid" ]; then
    docker_engine_clear
    kill "$docker_engine_pid" 2>/dev/null || true
    wait "$docker_engine_pid" 2>/dev/null || true
    say "  stopped the Docker engine"
  fi
  rm -rf "$docker_engine_work"
  docker_engine_pid='' docker_engine_work=''
  unset DOCKER_HOST
}

docker_engine_answers() {
  command -v docker >/dev/null && docker version >/dev/null 2>&1
}

# Not everything that talks to the engine knows the contexts of the docker command.
docker_engine_found() {
  DOCKER_HOST=${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}')}
  export DOCKER_HOST
  say "  Docker $(docker version --format '{{.Server.Version}}') answers at $DOCKER_HOST"
}

# Two engines in one network namespace take each other's bridges and packet filter rules away.
docker_engine_alone() {
  local pid
  for pid in $(pgrep -x dockerd); do
    [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ] ||
      die "a Docker engine runs already (process $pid), and does not answer here; set DOCKER_HOST to its socket"
  done
  docker_engine_data=${XDG_CACHE_HOME:-$HOME/.cache}/kubernetes-lb-controller/docker-engine
  mkdir -p "$docker_engine_data"
}

# Mounts the control groups where nobody did: an init does it, a bare container's or VM's shell does not.
docker_engine_cgroups() {
  local top=/sys/fs/cgroup name hierarchy enabled v1
  [ ! -e $top/cgroup.controllers ] || return 0
  v1=$(awk '$1 == "memory" {print $2}' /proc/cgroups)
  if ! mountpoint -q $top; then
    if [ "${v1:-0}" = 0 ]; then
      mount -t cgroup2 cgroup2 $top
      return
    fi
    mount -t tmpfs -o mode=755 tmpfs $top
  fi
  while read -r name hierarchy _ enabled; do
    # Two of version 1 may be mounted as one.
    if [ "$enabled" = 1 ] && ! grep -qE " $top/[^ ]* cgroup [^ ]*\b$name\b" /proc/mounts; then
      mkdir -p "$top/$name"
      mount -t cgroup -o "$name" "$name" "$top/$name" ||
        say "  the control group $name (hierarchy $hierarchy) cannot be mounted; going on without"
    fi
  done < <(grep -v '^#' /proc/cgroups)
}

docker_engine_run() {
  local arguments=() runtime deadline lock
  exec {lock}>"$docker_engine_data.lock"
  flock -n "$lock" || die "another run has its Docker engine in $docker_engine_data; wait for its end"
  # Short, for the paths of sockets in it may have 107 characters.
  docker_engine_work=$(mktemp -d /tmp/lb-docker.XXXXXX)
  # Not /etc/docker/daemon.json: it is meant for another engine.
  echo '{}' >"$docker_engine_work/daemon.json"
  if [ -n "$(docker_engine_out_of_bounds)" ]; then
    runtime=$(realpath "$(dirname "${BASH_SOURCE[0]}")/runc-within-bounds")
    arguments+=(--add-runtime "within-bounds=$runtime" --default-runtime within-bounds)
    say "  this machine keeps capabilities back ($(docker_engine_out_of_bounds)): containers do without"
  fi
  setpriv --pdeathsig TERM -- dockerd --host "unix://$docker_engine_work/docker.sock" \
    --data-root "$docker_engine_data" --exec-root "$docker_engine_work/exec" \
    --pidfile "$docker_engine_work/docker.pid" --config-file "$docker_engine_work/daemon.json" \
    "${arguments[@]}" >"$docker_engine_data.log" 2>&1 </dev/null {lock}>&- &
  docker_engine_pid=$!
  export DOCKER_HOST=unix://$docker_engine_work/docker.sock
  deadline=$((SECONDS + 60))
  until docker_engine_answers; do
    if ! kill -0 "$docker_engine_pid" 2>/dev/null || ((SECONDS > deadline)); then
      tail -n 20 "$docker_engine_data.log" >&2
      die "dockerd does not start: see the lines above and $docker_engine_data.log"
    fi
    sleep 0.2
  done
  # Of a run that was cut short.
  docker_engine_clear
  say "  started Docker $(docker version --format '{{.Server.Version}}') at $DOCKER_HOST, its log: $docker_engine_data.log"
}

# Leaves the images that have a name.
docker_engine_clear() {
  docker ps --all --quiet | xargs -r docker rm --force --volumes >/dev/null
  docker system prune --force --volumes >/dev/null
}

# The capabilities that no process here can have, not even root's.
docker_engine_out_of_bounds() {
  local bounds
  bounds=$(LC_ALL=C setpriv --dump | sed -n 's/^Capability bounding set: //p')
  setpriv --list-caps | grep -vxFf <(tr ',' '\n' <<<"$bounds") | paste -sd ' ' -
}
