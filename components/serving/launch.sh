#!/usr/bin/env bash
# Starts one pod of a model's group. "$@" is the argument list of `vllm serve`: on the leader, and with launcher native on
# every pod.
#
# Several nodes, launcher ray: the leader starts Ray's head, counts every GPU of the group, and only then becomes vLLM.
# Workers join and stay as long as Ray does. Launcher native: every pod becomes vLLM, the workers without HTTP; the leader
# waits for them inside vLLM. Whatever fails ends the pod, and LeaderWorkerSet makes the whole group anew: a leader left
# waiting for a worker that will not come would hold all GPUs and answer nothing. Under KubeRay the containers start anew
# in their pods, and find each other as at the first time.
set -euo pipefail

say() { echo "modelserve: $*"; }
die() { say "$*" >&2; exit 1; }

# A container's first process is deaf to signals that it does not handle: a pod deleted while its group forms would hold
# its GPUs for the whole grace period. After `exec`, vLLM and Ray handle them themselves.
trap 'exit 143' TERM

# `vllm serve` finds the guard beside this script.
export PYTHONPATH=${BASH_SOURCE[0]%/*}${PYTHONPATH:+:$PYTHONPATH}

# Ray holds a connection to each of its processes. Containers may begin with as few as 1024 files, and may take more.
ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"

nodes=${MODELSERVE_NODES:?} gpus=${MODELSERVE_GPUS_PER_NODE:?} index=${MODELSERVE_POD_INDEX:?}

if [ "$nodes" -eq 1 ]; then
  say "one node, $gpus GPUs: starting vLLM"
  exec vllm serve "$@"
fi

launcher=${MODELSERVE_LAUNCHER:?}
case $launcher in
  ray) command -v ray >/dev/null || die "ray: the image has no Ray, which joins $nodes nodes: take an image with Ray" ;;
  native) ;;
  *) die "MODELSERVE_LAUNCHER is $launcher: neither ray nor native" ;;
esac
poll=${MODELSERVE_POLL_SECONDS:-5}
seconds=${MODELSERVE_JOIN_SECONDS:?}
deadline=$((SECONDS + seconds))
port=${MODELSERVE_JOIN_PORT:?}
if [ -n "${KUBERAY_GEN_RAY_START_CMD:-}" ]; then
  # KubeRay hands over the command that it would have run: rayStartParams are in it, and a worker's way to its head. With
  # --block the head would never come to vLLM; KubeRay itself always adds it, AIBrix's build of it only on request.
  ray_start=${KUBERAY_GEN_RAY_START_CMD//--block/}
  leader=${FQ_RAY_IP:-$VLLM_HOST_IP} # only workers are given it
else
  # LeaderWorkerSet's webhook injects it. Without it the pod is no part of a group.
  leader=${LWS_LEADER_ADDRESS:-}
  [ -n "$leader" ] || die "LWS_LEADER_ADDRESS is not set: is the LeaderWorkerSet webhook running?"
  if [ "$index" -eq 0 ]; then
    ray_start="ray start --head --port=$port --num-gpus=$gpus --include-dashboard=false"
  else
    ray_start="ray start --address=$leader:$port --num-gpus=$gpus"
  fi
fi
# vLLM looks for its own address among those of Ray's nodes.
ray_start+=" --node-ip-address=$VLLM_HOST_IP --disable-usage-stats"
# Last, so that they hold whatever the list says.
place=(--nnodes "$nodes" --node-rank "$index" --master-addr "$leader" --master-port "$port")

if [ "$index" -ne 0 ]; then
  # The leader may come later: images are pulled at different speeds. `ray start` alone gives up after seconds, and vLLM
  # where the leader's name is not known yet. Once joined, either stays in the foreground, and the pod ends with it.
  while [ "$SECONDS" -lt "$deadline" ]; do
    if found=$(python3 -c 'import socket,sys
print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).getpeername()[0])' "$leader" "$port" 2>/dev/null); then
      # For the preStop hook: a leader that ends may have no name any more.
      echo "$found" > "${MODELSERVE_LEADER_FILE:-/dev/shm/modelserve-leader}"
      say "$launcher: joining $leader with $gpus GPUs"
      [ "$launcher" = ray ] || exec vllm serve "$@" "${place[@]}" --headless
      eval "exec $ray_start --block"
    fi
    say "$launcher: waiting for the leader at $leader:$port"
    sleep "$poll"
  done
  die "$launcher: no leader at $leader:$port in $seconds s"
fi

if [ "$launcher" = native ]; then
  say "native: leading $nodes nodes at $leader:$port, starting vLLM"
  exec vllm serve "$@" "${place[@]}"
fi

eval "$ray_start" || die "ray: the head did not start"

want=$((nodes * gpus))
while :; do
  have=$(python3 -c 'import logging, ray
ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
print(int(ray.cluster_resources().get("GPU", 0)))' | tail -n 1) || die "ray: the head does not answer"
  say "ray: $have of $want GPUs joined"
  [ "$have" -ge "$want" ] && break
  [ "$SECONDS" -lt "$deadline" ] || die "ray: $have of $want GPUs in $seconds s: see the workers' logs"
  sleep "$poll"
done

say "ray: formed, starting vLLM"
exec vllm serve "$@"
