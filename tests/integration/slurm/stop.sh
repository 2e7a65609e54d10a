#!/usr/bin/env bash
# Ends the Slurm that start.sh started, with its jobs, and removes what start.sh wrote. Another Slurm is left alone.
set -euo pipefail

mark='# written by tests/integration/slurm/start.sh of nnunet-attn'
if [ ! -e /etc/slurm/slurm.conf ]; then echo "stop.sh: no Slurm is set up here"; exit 0; fi
grep -qxF "$mark" /etc/slurm/slurm.conf || { echo "stop.sh: /etc/slurm/slurm.conf is not of start.sh" >&2; exit 3; }

timeout 20 scancel --user "$(id -un)" 2> /dev/null || true
for _ in $(seq 30); do
    [ -z "$(timeout 10 squeue -h 2> /dev/null)" ] && break
    sleep 1
done
for name in slurmd slurmctld; do
    file=/run/nnunet-attn-$name.pid
    [ -s "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2> /dev/null || true
    for _ in $(seq 20); do kill -0 "$pid" 2> /dev/null || break; sleep 1; done
    kill -9 "$pid" 2> /dev/null || true
    rm -f "$file"
done
# munge stays if a system service runs it; this ends the one that start.sh started
if [ ! -d /run/systemd/system ] && [ -s /run/munge/munged.pid ]; then kill "$(cat /run/munge/munged.pid)" || true; fi
for file in slurm.conf gres.conf cgroup.conf; do
    if grep -qxF "$mark" "/etc/slurm/$file" 2> /dev/null; then rm -f "/etc/slurm/$file"; fi
done
rm -rf /var/lib/nnunet-attn-slurm /var/log/nnunet-attn-slurm
echo "Slurm is stopped"
