#!/bin/bash
# Main process of the router pod: joins the pod to the Ray cluster, then runs `tandem up` beside it.
#
# Two programs, one life: when either ends, the other is stopped and the container exits, so that the kubelet restarts
# both.  A termination signal goes to Tandem first, which drains its streams while Ray, and with it the workers, is
# still there; only then does Ray leave.
set -u
chart_config="$1"
config="${TMPDIR:-/tmp}/cluster.yaml"
ray_address_file="${TANDEM_RAY_FOLDER:-/tmp/ray}/ray_current_cluster"
join_limit_s="${TANDEM_RAY_JOIN_LIMIT_S:-300}"
ray_pid=""
tandem_pid=""

leave() {
    trap '' TERM INT
    local status="$1" pid
    for pid in "$tandem_pid" "$ray_pid"; do
        [ -n "$pid" ] && kill -TERM "$pid" 2>/dev/null && wait "$pid"
    done
    exit "$status"
}
trap 'leave 0' TERM INT

# The Secrets and the pod's address join the configuration before anything starts: a mistake in them ends here.
python "$(dirname "$0")/compose_config.py" "$chart_config" "$config" "${POD_IP:?}" /etc/tandem || exit 1

# A container that restarts finds the /tmp of the one before: an old address would be taken for a joined cluster.
rm -f "$ray_address_file"
ulimit -n 65536 2>/dev/null || true
# The resource tells Ray where the controller may run: where its policy and its certificate are.  It is named here and
# not in the group's rayStartParams, because quotes within the operator's command line would stay in its words.
# Words are meant to split: the operator hands over one command line.
# shellcheck disable=SC2086
${KUBERAY_GEN_RAY_START_CMD:?the KubeRay operator sets it; is the annotation ray.io/overwrite-container-cmd there?} \
    '--resources={"tandem_router": 1}' &
ray_pid=$!

until [ -s "$ray_address_file" ]; do
    if ! kill -0 "$ray_pid" 2>/dev/null; then
        echo "start-router: ray ended before it had joined the cluster" >&2
        leave 1
    fi
    if [ "$SECONDS" -ge "$join_limit_s" ]; then
        echo "start-router: ray has not joined the cluster within ${join_limit_s} s" >&2
        leave 1
    fi
    sleep 0.2
done

tandem up -f "$config" &
tandem_pid=$!
wait -n "$tandem_pid" "$ray_pid"
status=$?
if kill -0 "$tandem_pid" 2>/dev/null; then
    echo "start-router: ray ended; stopping tandem, so that the pod starts again with both" >&2
    status=1
fi
leave "$status"
