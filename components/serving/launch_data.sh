#!/usr/bin/env bash
# Starts one pod of a model's group whose pods are data-parallel engines that vLLM itself joins. "$@" is the argument list of
# `vllm serve`, the same in every pod.
#
# The leader serves HTTP and balances it over all engines; the other pods run theirs without HTTP. The leader waits for
# them inside vLLM. Whatever fails ends the pod, and LeaderWorkerSet makes the whole group anew.
set -euo pipefail

say() { echo "modelserve: $*"; }
die() { say "$*" >&2; exit 1; }

# As in launch.sh: a first process that hears its end, the guard beside this script, and more than 1024 files.
trap 'exit 143' TERM
export PYTHONPATH=${BASH_SOURCE[0]%/*}${PYTHONPATH:+:$PYTHONPATH}
ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"

index=${MODELSERVE_POD_INDEX:?} engines=${MODELSERVE_ENGINES:?} port=${MODELSERVE_DATA_PORT:?}
seconds=${MODELSERVE_JOIN_SECONDS:?}
leader=${LWS_LEADER_ADDRESS:-}
[ -n "$leader" ] || die "LWS_LEADER_ADDRESS is not set: is the LeaderWorkerSet webhook running?"
# Last, so that they hold whatever the list says.
place=(--data-parallel-rpc-port "$port") first=()
if [ "$engines" -gt 0 ]; then
  place=(--data-parallel-size-local "$engines" "${place[@]}")
  first=(--data-parallel-start-rank $((index * engines)))
else
  # Each engine takes several pods: vLLM finds engine and place by the pod's number.
  place+=(--nnodes "${MODELSERVE_NODES:?}" --node-rank "$index" --master-addr "$leader")
  place+=(--master-port "${MODELSERVE_MASTER_PORT:?}")
fi

if [ "$index" -eq 0 ]; then
  say "native: leading ${MODELSERVE_NODES:?} nodes at $leader:$port, starting vLLM"
  # Its own address: ZeroMQ does not listen on a name.
  exec vllm serve "$@" "${place[@]}" --data-parallel-address "$VLLM_HOST_IP"
fi

# The leader may come later: images are pulled at different speeds, and vLLM gives up where its name is not known yet.
deadline=$((SECONDS + seconds))
while [ "$SECONDS" -lt "$deadline" ]; do
  if found=$(python3 -c 'import socket,sys
print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).getpeername()[0])' "$leader" "$port" 2>/dev/null); then
    # For the preStop hook: a leader that ends may have no name any more.
    echo "$found" > "${MODELSERVE_LEADER_FILE:-/dev/shm/modelserve-leader}"
    say "native: joining $leader with $MODELSERVE_GPUS_PER_NODE GPUs"
    exec vllm serve "$@" "${place[@]}" --data-parallel-address "$found" "${first[@]}" --headless
  fi
  say "native: waiting for the leader at $leader:$port"
  sleep "${MODELSERVE_POLL_SECONDS:-5}"
done
die "native: no leader at $leader:$port in $seconds s"
